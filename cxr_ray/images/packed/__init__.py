"""Objects inside .zip and .tar: bytes in, members out. Knows nothing of images."""
