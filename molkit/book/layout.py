"""Where the parts of a book lie on disk."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from molkit.errors import InvalidInput

REPOSITORY = Path(__file__).resolve().parents[2]
CHAPTERS = "chapters"


@dataclass(frozen=True)
class Book:
    """A folder with `_toc.yml`, `_config.yml`, pages and `chapters/`; `packages` are the first-party packages in it.

    A chapter is named by its path below `chapters/` without suffix: `edm/likelihood`.
    """

    root: Path = REPOSITORY
    packages: tuple[str, ...] = ("molkit", "benchmarks")

    @property
    def build_folder(self) -> Path:
        """Everything rendered; may be deleted at any time."""
        return self.root / "_build"

    @property
    def data_folder(self) -> Path:
        """Packed data, weights, claims and published results."""
        return self.root / "data"

    def run_folder(self, profile: str) -> Path:
        """What running the chapters with a profile left behind; may be deleted at any time."""
        return self.root / "_run" / profile

    def source(self, chapter: str) -> Path:
        """The committed notebook of a chapter."""
        return self.root / CHAPTERS / f"{chapter}.ipynb"

    def executed(self, chapter: str, profile: str) -> Path:
        """The notebook as it ran."""
        return self.run_folder(profile) / f"{chapter}.ipynb"

    def record(self, chapter: str, profile: str) -> Path:
        """What is known about the last run of a chapter, as JSON."""
        return self.run_folder(profile) / f"{chapter}.json"

    def results(self, chapter: str, profile: str) -> Path:
        """The results that a chapter recorded in its last good run."""
        return self.run_folder(profile) / "results" / chapter

    def pages(self) -> list[str]:
        """Every page of the table of contents, in order, without suffix. Raises InvalidInput if it cannot be read."""
        path = self.root / "_toc.yml"
        if not path.is_file():
            raise InvalidInput(f"no book in {self.root}: _toc.yml is missing; name the folder of the book with --root")
        try:
            contents = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, RecursionError) as error:
            raise InvalidInput(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from None
        return list(_entries(contents))

    def chapters(self) -> list[str]:
        """Names of the notebooks of the table of contents, in order."""
        inside = [page.removeprefix(f"{CHAPTERS}/") for page in self.pages() if page.startswith(f"{CHAPTERS}/")]
        missing = [name for name in inside if not self.source(name).is_file()]
        if missing:
            raise InvalidInput(f"_toc.yml names {missing[0]}, but {self.source(missing[0])} does not exist")
        return inside

    def choose(self, names: tuple[str, ...] = ()) -> list[str]:
        """The named chapters in the order of the book; all of them when none is named."""
        known = self.chapters()
        cleaned = [name.removeprefix(f"{CHAPTERS}/").removesuffix(".ipynb") for name in names]
        for name in cleaned:
            if name not in known:
                raise InvalidInput(f"no chapter {name!r}; the book has {', '.join(known) or 'none'}")
        return [name for name in known if not cleaned or name in cleaned]


def _entries(node: object):
    """`file` and `root` values of a table of contents, depth first."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("file", "root"):
                yield str(value).removesuffix(".md").removesuffix(".ipynb")
            else:
                yield from _entries(value)
    elif isinstance(node, list):
        for item in node:
            yield from _entries(item)
