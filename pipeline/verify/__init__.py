"""Verify a dataset: recompute annotations from pixels; check files, names, splits, duplicates."""
