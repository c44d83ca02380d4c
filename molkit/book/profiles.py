"""Profiles: what a chapter is given when it runs, checked against the notebook's own parameters cell."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from molkit.book.layout import CHAPTERS, Book
from molkit.book.notebooks import parameters_cell, parameters_source
from molkit.book.parameters import Parameter, read_parameters
from molkit.config import LARGEST
from molkit.errors import InvalidInput

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
