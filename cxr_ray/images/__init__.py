"""Image bytes to model input. Knows no torch model and no Ray."""
