"""What leaves the house: the sources and the rendered book of a release with checksums, from a clean tree, and chapters
for Google Colab, each of which fetches the book first.
"""

import gzip
import hashlib
import os
import re
import subprocess
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import yaml

from molkit.book.layout import CHAPTERS, Book
from molkit.book.notebooks import read_notebook, write_notebook
from molkit.config import read_yaml
from molkit.errors import InvalidInput


def agreed_version(root: Path) -> str:
    """The version that pyproject.toml, CITATION.cff and the first heading of CHANGELOG.md name.

    Raises InvalidInput where they differ, or the changes are unreleased or still in preparation.
    """
    version = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    cited = str(read_yaml(root / "CITATION.cff")["version"])
    heading = re.search(r"^## (.+)$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    changes = heading.group(1).strip() if heading else ""
    if cited != version or changes.split(",")[0] not in (version, "Unreleased"):
        raise InvalidInput(
            f"versions differ: pyproject.toml {version}, CITATION.cff {cited}, CHANGELOG.md {changes.split(',')[0]}"
        )
    if not re.fullmatch(rf"{re.escape(version)}, \d{{4}}-\d{{2}}-\d{{2}}", changes):
        raise InvalidInput(f"CHANGELOG.md calls this release {changes!r}; write '{version}, YYYY-MM-DD' to release it")
    return version


def make_archives(book: Book, out: Path) -> list[Path]:
    """Archives of the commit and of the rendered pages, and SHA256SUMS, in `out`; the same bytes for the same commit.

    Raises InvalidInput for versions that differ, a tree with changes that are not committed, or no rendered book.
    """
    version = agreed_version(book.root)
    if changed := _git(book, "status", "--porcelain").strip():
        raise InvalidInput(f"a release is made from a clean tree; not committed: {changed.splitlines()[0][3:]}")
    pages = book.build_folder / "html"
    if not (pages / "index.html").is_file():
        raise InvalidInput("there is no rendered book to release; run make book first")
    out.mkdir(parents=True, exist_ok=True)
    names = [out / f"molkit-{version}-{part}.tar.gz" for part in ("sources", "book")]
    _git(book, "archive", "--format=tar.gz", f"--prefix=molkit-{version}/", f"--output={names[0].resolve()}", "HEAD")
    _pack(pages, names[1], f"molkit-{version}-book", int(_git(book, "log", "-1", "--format=%ct")))
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in names)
    (out / "SHA256SUMS").write_text(sums, encoding="utf-8")
    return [*names, out / "SHA256SUMS"]


def _pack(folder: Path, target: Path, prefix: str, time: int) -> None:
    """The files of a folder in the order of their names, all with one owner and time."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = time, 0, 0, "", ""
        return entry

    with (
        open(target, "wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.add(path, f"{prefix}/{path.relative_to(folder).as_posix()}", filter=plain)


def _git(book: Book, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=book.root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        words = getattr(error, "stderr", "") or str(error)
        raise InvalidInput(f"a release needs a git checkout: {words.strip().splitlines()[-1]}") from error
    return done.stdout


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
