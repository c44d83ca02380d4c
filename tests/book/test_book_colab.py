"""Notebooks for a hosted service: their first cell fetches the book, and the rest then runs."""

import subprocess

import nbformat
import pytest
import yaml
from nbclient import NotebookClient

from molkit.book.archive import BRANCH, SERVICE, add_button, repository_address, write_notebooks
from molkit.book.layout import Book
from molkit.book.notebooks import write_notebook
from molkit.cli import run as molkit
from molkit.errors import InvalidInput


@pytest.fixture
def repository(tmp_path):
    """A book of one chapter, which imports the book's package, as a git repository."""
    root = tmp_path / "book"
    for name in ("chapters/first", "lab"):
        (root / name).mkdir(parents=True)
    (root / "lab" / "__init__.py").write_text("ANSWER = 42\n")
    (root / "requirements.txt").write_text("# nothing to install\n")
    (root / "_toc.yml").write_text("format: jb-book\nroot: chapters/first/one\n")
    cell = nbformat.v4.new_code_cell("import os\nimport lab\nlab.ANSWER, os.path.basename(os.getcwd())")
    write_notebook(root / "chapters/first/one.ipynb", nbformat.v4.new_notebook(cells=[cell]))
    who = ["-c", "user.name=reader", "-c", "user.email=reader@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def test_a_chapter_fetches_its_book_and_runs_in_an_empty_folder(repository, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True, check=True)
    book = Book(repository, ("lab",))
    [path] = write_notebooks(book, tmp_path / "out", address=str(repository), commit=head.stdout.strip())
    assert path == tmp_path / "out" / "chapters" / "first" / "one.ipynb"
    empty = tmp_path / "empty"
    empty.mkdir()
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(empty)}}).execute()
    assert notebook.cells[-1].outputs[-1]["data"]["text/plain"] == "(42, 'first')"


def test_the_button_needs_an_address(tmp_path):
    config = tmp_path / "_config.yml"
    config.write_text("title: a book\nhtml: {use_issues_button: false}\n")
    add_button(config, "https://github.com/some/book")
    settings = yaml.safe_load(config.read_text())
    assert settings["title"] == "a book" and settings["launch_buttons"] == {"colab_url": SERVICE}
    assert settings["repository"]["url"] == "https://github.com/some/book"
    assert settings["repository"]["branch"] == BRANCH


@pytest.mark.parametrize("given, address", [("", ""), ("https://github.com/a/b.git", "https://github.com/a/b")])
def test_the_address_comes_from_a_variable(given, address, monkeypatch):
    monkeypatch.setenv("MOLKIT_REPOSITORY", given)
    assert repository_address() == address


def test_another_host_or_none_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MOLKIT_REPOSITORY", "https://example.org/a/b")
    with pytest.raises(InvalidInput, match="must be like https://github.com/OWNER/NAME"):
        repository_address()
    monkeypatch.delenv("MOLKIT_REPOSITORY")
    assert molkit(["book", "colab", "--out", str(tmp_path / "out")]) == 2
    assert "set MOLKIT_REPOSITORY" in capsys.readouterr().err and not (tmp_path / "out").exists()
