"""An inner package with a data file."""
