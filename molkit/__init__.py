"""Generative models and electronic structure, reproduced in front of the reader."""

__version__ = "0.1.0"
