"""Tensors in, tensors out. Knows no Ray and no files but the ensemble bundle."""
