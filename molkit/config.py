"""Configurations are frozen dataclasses, read strictly: an unknown key is an error that names it."""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from molkit.errors import DataNotFound, InvalidInput

Config = TypeVar("Config")


def from_dict(kind: type[Config], values: Mapping[str, Any], *, source: str = "configuration") -> Config:
    """Build the dataclass `kind` from plain values; lists become tuples where the field is a tuple.

    Raises InvalidInput for an unknown key or a value of the wrong type, naming both.
    """
    if not isinstance(values, Mapping):
        raise InvalidInput(f"{source}: expected a table of keys and values, got {type(values).__name__}")
    hints = typing.get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}
    unknown = sorted(set(map(str, values)) - names)
    if unknown:
        raise InvalidInput(f"{source}: unknown key {unknown[0]!r}; known keys are {', '.join(sorted(names))}")
    return kind(**{key: _coerce(key, value, hints[key], source) for key, value in values.items()})


def _coerce(key: str, value: Any, hint: Any, source: str) -> Any:
    """The value in the type of its field, or InvalidInput."""
    origin = typing.get_origin(hint) or hint
    if origin is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is tuple and isinstance(value, list | tuple):
        return _coerce_entries(key, value, typing.get_args(hint), source)
    if origin is typing.Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            raise InvalidInput(f"{source}: {key} must be one of {', '.join(map(str, allowed))}, got {value!r}")
        return value
    plain = origin if isinstance(origin, type) else None
    wrong_bool = isinstance(value, bool) and plain in (int, float)
    if plain is not None and (wrong_bool or not isinstance(value, plain)):
        wanted = "a list" if plain is tuple else plain.__name__
        note = "; YAML reads exponents only after a point: 1.0e-3" if plain is float and _is_number(value) else ""
        raise InvalidInput(f"{source}: {key} must be {wanted}, got {value!r} ({type(value).__name__}){note}")
    return value


def _coerce_entries(key: str, values: Sequence[Any], kinds: tuple[Any, ...], source: str) -> tuple[Any, ...]:
    """A tuple whose entries have the types of its field: tuple[int, ...] or tuple[int, str]."""
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = kinds[:1] * len(values)
    if len(kinds) != len(values):
        raise InvalidInput(f"{source}: an entry of {key} must hold {len(kinds)} values, got {list(values)!r}")
    return tuple(_coerce(key, value, kind, source) for value, kind in zip(values, kinds, strict=True))


def _is_number(value: Any) -> bool:
    """Whether a text reads as a number."""
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return isinstance(value, str)


def to_dict(config: Any) -> dict[str, Any]:
    """Plain values of a configuration, ready for YAML."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def read_yaml(path: Path) -> dict[str, Any]:
    """The table in a YAML file. Raises DataNotFound or InvalidInput."""
    if not path.is_file():
        raise DataNotFound(f"{path}: no such file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:  # the last: nested too deeply
        first = str(error).splitlines()[0]
        raise InvalidInput(f"{path}: not readable as YAML ({first})") from error
    if not isinstance(values, dict):
        raise InvalidInput(f"{path}: expected a table of keys and values, got {type(values).__name__}")
    return values
