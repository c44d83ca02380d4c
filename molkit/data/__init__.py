"""Data sets: verify, fetch, load."""
