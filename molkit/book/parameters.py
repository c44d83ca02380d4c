"""What a chapter is given when it runs: profiles, and parameters of the types and ranges that its cell states."""

import ast
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from molkit.book.layout import CHAPTERS, Book
from molkit.book.notebooks import parameters_cell, parameters_source
from molkit.config import LARGEST
from molkit.errors import InvalidInput
from molkit.experiments.experiment import read_recompute

PLAIN_TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}
FROM_ZERO = ("seed", "index", "grid_level")  # whole numbers that begin at 0 without saying so
HIGHEST = {"grid_level": 9}  # of PySCF's grids
LINE = re.compile(r"^(?P<name>\w+)\s*:\s*(?P<kind>[^=]+?)\s*=\s*(?P<default>[^#\n]*?)\s*(?:#(?P<comment>.*))?$", re.M)


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell. A whole number begins at 1, or at 0 where its comment or its default says 0."""

    name: str
    kind: str  # its type as written
    low: int
    high: int

    def problem(self, value: object) -> str:
        """What is wrong with a value, as "must be ..."; empty where it will do."""
        if not fits(value, self.kind):
            return f"must be {self.kind}, got {value!r} ({type(value).__name__})"
        if isinstance(value, float) and not math.isfinite(value):
            return f"must be a finite number, got {value}"
        if isinstance(value, int) and not isinstance(value, bool) and not self.low <= value <= self.high:
            return f"must be a whole number from {self.low} to {self.high}, got {value}"
        if self.name == "recompute" and self.kind == "str":
            return _recompute_problem(value)
        return ""


def _recompute_problem(value: str) -> str:
    try:
        read_recompute(value)
    except InvalidInput as error:
        return f"is wrong: {error}"
    return ""


def read_parameters(source: str) -> dict[str, Parameter]:
    """The annotated lines of a parameters cell, by name."""
    found = {}
    for line in LINE.finditer(source):
        name, kind, comment = line["name"], line["kind"], line["comment"] or ""
        from_zero = name in FROM_ZERO or line["default"] == "0" or re.search(r"(?<![\d.])0(?![\d.])", comment)
        low = (0 if from_zero else 1) if kind == "int" else -LARGEST
        found[name] = Parameter(name, kind, low, HIGHEST.get(name, LARGEST))
    return found


def check_here(namespace: Mapping[str, Any]) -> None:
    """Check the parameters of the running notebook, whose `globals()` these are, wherever they came from.

    Raises InvalidInput naming the first that is of another type, or a number out of range.
    """
    cells: Sequence[str] = namespace.get("In", ())
    source = next((cell for cell in cells if read_parameters(cell)), "")
    for name, parameter in read_parameters(source).items():
        if problem := parameter.problem(namespace[name]):
            raise InvalidInput(f"parameter {name!r} {problem}")


def fits(value: object, kind: str) -> bool:
    """Whether a value belongs to a type written as an annotation; what cannot be read is not checked."""
    try:
        return _is(value, ast.parse(kind, mode="eval").body)
    except SyntaxError:
        return True


def _is(value: object, kind: ast.expr) -> bool:
    """Whether a value belongs to `int`, `list[int]`, `dict[str, float]`, `int | None` and their like."""
    match kind:
        case ast.BinOp(op=ast.BitOr()):
            return _is(value, kind.left) or _is(value, kind.right)
        case ast.Constant(value=None):
            return value is None
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return isinstance(value, list) and all(_is(item, inner) for item in value)
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[key, inner])):
            return isinstance(value, dict) and all(_is(k, key) and _is(v, inner) for k, v in value.items())
        case ast.Name(id="float"):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ast.Name(id=name) if name in PLAIN_TYPES:
            return isinstance(value, PLAIN_TYPES[name]) and (name == "bool" or not isinstance(value, bool))
        case _:
            return True


PROFILES = ("smoke", "fast", "paper")
SETTINGS = ("budget_seconds", "parameters")


@dataclass(frozen=True)
class Settings:
    """How one chapter runs in one profile: differences from its parameters cell, and how long it may take."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    budget_seconds: float = 60.0


def load_profile(book: Book, name: str) -> dict[str, Settings]:
    """Settings of every chapter of the book in a profile.

    Raises InvalidInput naming the file and the key for an unknown profile, chapter, setting or parameter, and for a
    value of the wrong type.
    """
    if name not in PROFILES:
        raise InvalidInput(f"unknown profile {name!r}; choose one of {', '.join(PROFILES)}")
    path = book.root / CHAPTERS / "profiles" / f"{name}.yaml"
    entries = _read(path)
    known = book.chapters()
    for chapter in entries:
        if chapter not in known:
            raise InvalidInput(f"{path}: unknown chapter {chapter!r}; the book has {', '.join(known)}")
    return {chapter: _settings(book, chapter, entries.get(chapter) or {}, path) for chapter in known}


def with_overrides(book: Book, profile: Mapping[str, Settings], overrides: Mapping[str, Any]) -> dict[str, Settings]:
    """The profile with some parameters replaced in every given chapter that has them; each must exist in one."""
    for name in overrides:
        if not any(name in parameters_of(book.source(chapter)) for chapter in profile):
            raise InvalidInput(f"no chosen chapter has a parameter {name!r}")
    changed = {}
    for chapter, settings in profile.items():
        known = parameters_of(book.source(chapter))
        own = {name: value for name, value in overrides.items() if name in known}
        check_parameters(book.source(chapter), own)
        changed[chapter] = Settings({**settings.parameters, **own}, settings.budget_seconds)
    return changed


def read_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """`name=value` pairs, values read as YAML: 3, 0.5, true, [1, 2], text."""
    overrides = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise InvalidInput(f"a parameter is given as name=value, got {pair!r}")
        try:
            overrides[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InvalidInput(
                f"cannot read the value of {pair!r}; write a number, true, false, text or a list"
            ) from None
    return overrides


def parameters_of(notebook: Path) -> dict[str, str]:
    """Parameter name -> its type in words ("" when neither annotated nor plain) from the notebook's parameters cell."""
    return {name: kind for name, (kind, _) in parameters_cell(notebook).items()}


def check_parameters(notebook: Path, values: Mapping[str, Any], *, where: str = "") -> None:
    """Raise InvalidInput unless the notebook's parameters cell has every name, and its value is one that may be."""
    known = parameters_of(notebook)
    ranges = read_parameters(parameters_source(notebook))
    prefix = f"{where}: " if where else ""
    for name, value in values.items():
        if name not in known:
            raise InvalidInput(
                f"{prefix}{notebook.name} has no parameter {name!r}; it has {', '.join(known) or 'none'}"
            )
        parameter = ranges.get(name) or Parameter(name, known[name], -LARGEST, LARGEST)
        if problem := parameter.problem(value):
            raise InvalidInput(f"{prefix}parameter {name!r} of {notebook.name} {problem}")


def _read(path: Path) -> dict[str, Any]:
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInput(f"profile file {path} does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from None
    if entries is None:
        return {}
    if not isinstance(entries, dict):
        raise InvalidInput(f"{path}: expected `chapter: settings` pairs, got {type(entries).__name__}")
    return entries


def _settings(book: Book, chapter: str, entry: object, path: Path) -> Settings:
    if not isinstance(entry, dict):
        raise InvalidInput(f"{path}: {chapter}: expected settings, got {entry!r}")
    for key in entry:
        if key not in SETTINGS:
            raise InvalidInput(f"{path}: {chapter}: unknown key {key!r}; known are {', '.join(SETTINGS)}")
    budget = entry.get("budget_seconds", Settings.budget_seconds)
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not budget > 0:
        raise InvalidInput(f"{path}: {chapter}: budget_seconds must be a positive number, got {budget!r}")
    parameters = entry.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InvalidInput(f"{path}: {chapter}: parameters must be `name: value` pairs, got {parameters!r}")
    check_parameters(book.source(chapter), parameters, where=f"{path}: {chapter}")
    return Settings(parameters, float(budget))
