"""Sums; the import inside the function must be found."""


def total(values):
    """Sum of numbers given as text."""
    from toylab.inner.convert import number

    return sum(number(value) for value in values)
