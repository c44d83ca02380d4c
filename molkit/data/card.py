"""The data card, `data/sets/README.md`, read so that the command line can quote it.

A section that describes files begins with two number signs and names them in backticks, then a colon and a title.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from molkit.data.registry import CARD_FILE, available_files, data_root
from molkit.errors import DataNotFound, InvalidInput


@dataclass(frozen=True)
class CardSection:
    """What the card says about one or more files."""

    files: tuple[str, ...]
    title: str
    text: str


def read_card(root: Path | None = None) -> list[CardSection]:
    """Sections of the card that describe files, in order."""
    path = data_root(root) / CARD_FILE
    if not path.is_file():
        raise DataNotFound(f"the data card {path} is missing: `git checkout -- {path}` restores it")
    sections = []
    for block in re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading, _, text = block.partition("\n")
        names, _, title = heading.partition(": ")
        files = tuple(re.findall(r"`([^`]+)`", names))
        if files and title:
            sections.append(CardSection(files, title.strip(), text.strip()))
    return sections


def section_of(name: str, *, root: Path | None = None) -> CardSection:
    """The section that describes one file of the collection."""
    for section in read_card(root):
        if name in section.files or any(name.startswith(file) for file in section.files if file.endswith("/")):
            return section
    raise InvalidInput(f"the data card says nothing about {name}")


def match_files(name: str, *, root: Path | None = None) -> list[str]:
    """Files of the collection that a short name means: the file itself, its stem, or all of a folder.

    Raises InvalidInput, listing what there is, when nothing matches.
    """
    files = available_files(root)
    for chosen in (
        [file for file in files if file == name],
        [file for file in files if file.split(".")[0] == name],
        [file for file in files if file.startswith(name.rstrip("/") + "/")],
    ):
        if chosen:
            return chosen
    raise InvalidInput(f"no data set named {name!r}: expected one of {', '.join(files)}")
