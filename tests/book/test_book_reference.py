from molkit.book.reference import ROOMS, escape_bars, module_page, modules
from molkit.claims.ledger import REPOSITORY

PACKAGE = REPOSITORY / "molkit"
LEFT_OUT = {"cli", "book", "figures"}  # used through commands and chapters


def test_every_room_of_the_package_has_its_page():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - LEFT_OUT
    assert rooms == set(ROOMS) - {"core"}
    for room in ROOMS:
        assert (REPOSITORY / "api" / f"{room}.md").read_text().startswith(f"# {ROOMS[room]}\n")
        assert f"file: api/{room}\n" in (REPOSITORY / "_toc.yml").read_text()


def test_a_page_lists_public_modules_only():
    found = modules("edm", PACKAGE)
    assert ".. automodule:: molkit.edm.sampling" in module_page("edm", PACKAGE)
    assert "molkit.edm.sampling" in found and not any("._" in name or "__" in name for name in found)


def test_bars_are_no_substitutions():
    lines = ["the norm |x|", "plain"]
    escape_bars(None, "function", "f", None, None, lines)
    assert lines == [r"the norm \|x\|", "plain"]
