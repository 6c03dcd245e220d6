"""Radiographs in, one row each out: ensembles of CNNs over chest X-ray archives, on Ray."""

__version__ = "0.1.0"
