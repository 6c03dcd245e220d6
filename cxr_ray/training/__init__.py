"""From a labelled table to trained members."""
