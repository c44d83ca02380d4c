"""A release: versions agree, the tree is clean, and the same commit gives the same bytes."""

import subprocess
import tarfile

import pytest

from molkit.book.archive import agreed_version, make_archives
from molkit.book.layout import REPOSITORY, Book
from molkit.errors import InvalidInput


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "molkit"
    (root / "_build" / "html").mkdir(parents=True)
    (root / "_build" / "html" / "index.html").write_text("<h1>book</h1>")
    files = {
        "pyproject.toml": '[project]\nname = "molkit"\nversion = "1.2.3"\n',
        "CITATION.cff": "version: 1.2.3\n",
        "CHANGELOG.md": "# Changes\n\n## 1.2.3, 2030-01-31\n",
        ".gitignore": "_build/\n",
    }
    for name, text in files.items():
        (root / name).write_text(text)
    who = ["-c", "user.name=reader", "-c", "user.email=reader@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return Book(root, ("molkit",))


def test_the_same_commit_gives_the_same_archives(checkout, tmp_path):
    first, second = make_archives(checkout, tmp_path / "a"), make_archives(checkout, tmp_path / "b")
    assert [path.name for path in first] == ["molkit-1.2.3-sources.tar.gz", "molkit-1.2.3-book.tar.gz", "SHA256SUMS"]
    assert first[2].read_text() == second[2].read_text()
    with tarfile.open(first[1]) as book, tarfile.open(first[0]) as sources:
        assert book.getnames() == ["molkit-1.2.3-book/index.html"]
        assert "molkit-1.2.3/pyproject.toml" in sources.getnames()


def test_what_is_not_ready_is_refused_in_a_line(checkout, tmp_path):
    root = checkout.root
    (root / "new.txt").write_text("not committed")
    with pytest.raises(InvalidInput, match=r"not committed: new\.txt"):
        make_archives(checkout, tmp_path / "out")
    for heading in ("1.2.3, in preparation", "Unreleased"):
        (root / "CHANGELOG.md").write_text(f"# Changes\n\n## {heading}\n")
        with pytest.raises(InvalidInput, match=f"'{heading}'; write '1.2.3, YYYY-MM-DD'"):
            agreed_version(root)
    (root / "CITATION.cff").write_text("version: 1.2.2\n")
    with pytest.raises(InvalidInput, match=r"CITATION\.cff 1\.2\.2"):
        agreed_version(root)
    assert not (tmp_path / "out").exists()


def test_our_own_versions_agree():
    try:
        assert agreed_version(REPOSITORY)
    except InvalidInput as error:
        assert "YYYY-MM-DD" in str(error)  # not released yet, which is another matter than names that differ
