"""Tests that benchmarks run."""
