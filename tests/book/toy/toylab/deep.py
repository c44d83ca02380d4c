"""Half of the answer."""

HALF = 21
