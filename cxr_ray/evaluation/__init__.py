"""From scored rows to evidence a person can read."""
