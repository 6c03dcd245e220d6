"""Whether heat maps show the lesions: marks, controls, sanity."""
