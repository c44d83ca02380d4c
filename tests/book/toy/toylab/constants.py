"""Constants."""

TWO = 2
