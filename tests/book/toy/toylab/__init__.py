"""A package of a few lines."""
