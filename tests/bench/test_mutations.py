"""The list of deliberate mistakes fits the code of today, and its account counts what was missed."""

from dataclasses import asdict

import pytest

from benchmarks.mutations import ROOT, Mistake, edited, in_place, mistakes, summary


def test_every_mistake_changes_a_text_that_occurs_once_and_names_tests_that_exist():
    known = mistakes()
    assert len(known) >= 40 and len({(one.file, one.before) for one in known}) == len(known)
    for one in known:
        assert edited(one, ROOT) != (ROOT / "molkit" / one.file).read_text(encoding="utf-8")
        assert all((ROOT / "tests" / name).is_file() for name in one.tests.split()), one.tests


def test_a_text_that_is_gone_or_occurs_twice_is_an_error_and_a_mistake_is_taken_back(tmp_path):
    file = tmp_path / "molkit" / "studies" / "edm" / "page.py"
    file.parent.mkdir(parents=True)
    file.write_text("a = 1\nb = 1\n")
    one = Mistake("studies/edm/page.py", "another number", "a = 1", "a = 2", "test_page.py")
    with in_place(one, tmp_path):
        assert file.read_text() == "a = 2\nb = 1\n"
    assert file.read_text() == "a = 1\nb = 1\n"
    for before, count in (("c = 1", 0), ("= 1", 2)):
        with pytest.raises(LookupError, match=f"occurs {count} times"):
            edited(Mistake("studies/edm/page.py", "", before, "d", "test_page.py"), tmp_path)


def test_the_share_caught_is_told_by_room():
    one, two = Mistake("studies/edm/page.py", "x", "a", "b", "t"), Mistake("farm/run.py", "y", "a", "b", "t")
    found = summary(
        [
            asdict(one) | {"caught": False, "code": 0},
            asdict(one) | {"caught": True, "code": 1},
            asdict(two) | {"caught": True, "code": 1},
        ]
    )
    assert found["rooms"] == {"farm": {"caught": 1, "of": 1}, "studies/edm": {"caught": 1, "of": 2}}
    assert found["below"] == ["studies/edm"] and found["missed"] == ["studies/edm/page.py: x"] and found["of"] == 3
