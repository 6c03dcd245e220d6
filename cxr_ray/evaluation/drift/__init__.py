"""Whether scores and headers are distributed as before."""
