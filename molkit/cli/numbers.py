"""The numbers that options take: finite ones, and whole ones that fit in the libraries below."""

import math
from typing import Any

import click

from molkit.config import LARGEST


class Number(click.FloatRange):
    """A finite number, in a range if one is given; NaN compares with no bound, so click lets it pass any range."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The value as a float. Raises click.BadParameter for NaN and infinity too."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Whole(click.IntRange):
    """A whole number of at most LARGEST, in a range if one is given."""

    name = "whole number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The value as an int. Raises click.BadParameter for one too large as well."""
        number = super().convert(value, param, ctx)
        if abs(number) > LARGEST:
            self.fail(f"{value} is larger than {LARGEST}.", param, ctx)
        return number


SEED = Whole(min=0)
