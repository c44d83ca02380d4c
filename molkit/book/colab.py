"""Chapters for a hosted notebook service: each begins with a cell that fetches the book, and its page has a button."""

import os
import re
from pathlib import Path
from typing import Any

import yaml

from molkit.book.layout import CHAPTERS, Book
from molkit.book.notebooks import read_notebook, write_notebook
from molkit.errors import InvalidInput

SERVICE = "https://colab.research.google.com"
BRANCH = "colab"  # of the repository, where the notebooks below are published
VARIABLE = "MOLKIT_REPOSITORY"
ADDRESS = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")
FETCH = """\
# Fetches the book and the packages it was made with: some minutes, once a session.
!git clone -q {address} molkit-book && git -C molkit-book checkout -q {commit}
%cd -q molkit-book
%pip install -q -r requirements.txt
import os, sys
sys.path.insert(0, os.getcwd())
%cd -q {folder}"""


def repository_address() -> str:
    """Where the book's repository is public, from MOLKIT_REPOSITORY; "" where nobody said.

    Raises InvalidInput for what is not an address of GitHub, the only host the service opens notebooks from.
    """
    address = os.environ.get(VARIABLE, "").rstrip("/").removesuffix(".git")
    if address and not ADDRESS.fullmatch(address):
        raise InvalidInput(f"{VARIABLE} must be like https://github.com/OWNER/NAME, got {address!r}")
    return address


def add_button(config: Path, address: str) -> None:
    """Change a `_config.yml` so that the page of every chapter has a button that opens it in the service."""
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    settings["repository"] = {"url": address, "branch": BRANCH, "path_to_book": ""}
    settings["launch_buttons"] = {"colab_url": SERVICE}
    config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def write_notebooks(book: Book, folder: Path, *, address: str, commit: str) -> list[Path]:
    """Every chapter below `folder` as it lies in the repository, with the fetching cell first; the files."""
    written = []
    for chapter in book.chapters():
        path = folder / CHAPTERS / f"{chapter}.ipynb"
        write_notebook(
            path, _fetching(read_notebook(book.source(chapter)), path.parent.relative_to(folder), address, commit)
        )
        written.append(path)
    return written


def _fetching(notebook: dict[str, Any], folder: Path, address: str, commit: str) -> dict[str, Any]:
    import nbformat

    source = FETCH.format(address=address, commit=commit, folder=folder.as_posix())
    notebook["cells"].insert(0, nbformat.v4.new_code_cell(source, id="molkit-fetch"))
    return notebook
