"""An answer found through a name in a string."""

from importlib import import_module

from . import constants as numbers


def answer():
    """Forty-two."""
    return import_module("toylab.deep").HALF * numbers.TWO
