"""Whether agreement between members tells errors, and better than confidence does."""
