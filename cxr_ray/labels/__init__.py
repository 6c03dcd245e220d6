"""What is looked for, and the ground truth."""
