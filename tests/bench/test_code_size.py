from pathlib import Path

from benchmarks.code_size import code_size, count_lines

SOURCE = '''"""A module.

With words.
"""

import math
from math import (
    pi,
    tau,
)

# a comment
TEXT = """counted,

all of its three lines"""


class Circle:
    """Words."""

    def area(self, radius):  # a comment behind code
        """Words."""
        import sys

        return (
            pi * radius**2
        )


def empty():
    """Words."""
'''


def test_only_lines_of_code_are_counted():
    # TEXT 3, class 1, def 1, return 3, def 1
    assert count_lines(SOURCE) == 9


def test_rooms_and_the_apparatus_add_up(tmp_path: Path):
    for name, lines in {
        "top.py": 1,
        "edm/one.py": 2,
        "figures/a.py": 3,
        "studies/deep/b.py": 4,
        "edm/none.py": 0,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n" * lines, encoding="utf-8")
    found = code_size(tmp_path)
    assert found["sizes"] == {"molkit": 10, "files": 5, "apparatus": 7}
    assert found["rooms"] == {"studies": 4, "figures": 3, "edm": 2, "top": 1}
