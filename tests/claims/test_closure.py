"""Code is compared by what it does: comments turn nothing stale, any function that a measure reaches does."""

import pytest

from molkit.claims.closure import code_of, fingerprint
from molkit.claims.ledger import REPOSITORY
from molkit.errors import DataNotFound

ROOM = '''"""A room."""
from toy.tools import double
from toy.plots import draw
FACTOR = 3
OTHER = 4

def measure(task):
    """What it measures."""
    return helper(task) * FACTOR  # times three

def helper(task):
    return double(task)

def figure(rows):
    return draw(rows)
'''


@pytest.fixture
def house(tmp_path):
    package = tmp_path / "toy"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tools.py").write_text(
        "from toy.deep import one\n\ndef double(x):\n    return 2 * x * one()\n\ndef unused():\n    return 1\n"
    )
    (package / "deep.py").write_text("def one():\n    return 1\n")
    (package / "plots.py").write_text("def draw(rows):\n    return rows\n")
    (package / "room.py").write_text(ROOM)
    return package


def code(house):
    return code_of(house / "room.py", "measure", root=house.parent, packages=("toy",))


def edited(house, name, old, new):
    path = house / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_code_of_a_function_is_what_it_mentions_and_the_files_that_are_imported_for_it(house):
    assert set(code(house)) == {"toy/__init__.py", "toy/tools.py", "toy/deep.py", "toy/room.py:measure"}


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("room.py", '"""A room."""', '"""Another."""\n# and more'),
        ("room.py", "  # times three", "  # FACTOR"),
        ("room.py", '    """What it measures."""\n', ""),
        ("room.py", "helper(task) * FACTOR", "(helper(task)\n        * FACTOR)"),
        ("room.py", "return draw(rows)", "return draw(rows[1:])"),
        ("room.py", "OTHER = 4", "OTHER = 5"),
        ("plots.py", "return rows", "return rows[1:]"),
        ("tools.py", "def unused():", 'def unused():\n    """Not used."""'),
    ],
)
def test_comments_docstrings_layout_and_plots_change_nothing(house, name, old, new):
    before = code(house)
    edited(house, name, old, new)
    assert code(house) == before


@pytest.mark.parametrize(
    ("name", "old", "new", "place"),
    [
        ("room.py", "FACTOR = 3", "FACTOR = 4", "toy/room.py:measure"),
        ("room.py", "return double(task)", "return -double(task)", "toy/room.py:measure"),
        ("room.py", "helper(task) * FACTOR", "helper(task) / FACTOR", "toy/room.py:measure"),
        ("tools.py", "2 * x", "2 + x", "toy/tools.py"),
        ("tools.py", "return 1", "return 2", "toy/tools.py"),
        ("deep.py", "return 1", "return 1.0", "toy/deep.py"),
        ("deep.py", "return 1", "return '1'", "toy/deep.py"),
        ("deep.py", "def one():", "def one(x=None):", "toy/deep.py"),
        ("__init__.py", "", "x = 1\n", "toy/__init__.py"),
    ],
)
def test_every_change_of_what_is_reached_changes_its_fingerprint_and_no_other(house, name, old, new, place):
    before = code(house)
    edited(house, name, old, new)
    after = code(house)
    assert {path for path in before if before[path] != after[path]} == {place}


def test_a_file_that_is_newly_reached_is_in_the_code_and_a_function_that_is_gone_is_named(house):
    edited(house, "deep.py", "def one", "import toy.plots\n\ndef one")
    assert "toy/plots.py" in code(house)
    with pytest.raises(DataNotFound, match="no 'nothing' in it"):
        code_of(house / "room.py", "nothing", root=house.parent, packages=("toy",))
    with pytest.raises(DataNotFound, match="does not exist"):
        code_of(house / "none.py", "measure", root=house.parent, packages=("toy",))


def test_rooms_beside_the_numbers_are_no_code_of_a_page():
    found = code_of(REPOSITORY / "molkit/studies/conformers/arms.py", "measure_arms", root=REPOSITORY)
    assert {"molkit/cgcf/energy.py", "molkit/metrics/conformers.py"} <= set(found)
    assert not [path for path in found if path.split("/")[1] in ("claims", "experiments", "figures", "book", "cli")]


def test_a_file_that_is_no_python_counts_by_its_bytes(house):
    (house / "table.csv").write_text("1")
    before = code(house)
    assert before["toy/table.csv"] == fingerprint(house / "table.csv")
    (house / "table.csv").write_text("12")
    assert code(house) != before
