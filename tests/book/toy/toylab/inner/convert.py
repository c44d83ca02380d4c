"""Text to number."""


def number(text):
    """A float."""
    return float(text)
