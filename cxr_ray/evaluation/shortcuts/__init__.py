"""What the scores still tell with a region hidden."""
