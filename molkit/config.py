"""Configurations are frozen dataclasses, read strictly: an unknown key is an error that names it."""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from molkit.errors import DataNotFound, InvalidInput

Config = TypeVar("Config")
LARGEST = 2**31 - 1  # of the whole numbers that are taken: all libraries below take it as a count or a seed


def from_dict(kind: type[Config], values: Mapping[str, Any], *, source: str = "configuration") -> Config:
    """Build the dataclass `kind` from plain values; lists become tuples where the field is a tuple.

    Raises InvalidInput for an unknown or missing key or a value of the wrong type, naming both, and for what the
    dataclass itself refuses.
    """
    known = {field.name: field for field in dataclasses.fields(kind)}
    check_keys(values, known, source=source)
    missing = [
        name
        for name, field in known.items()
        if name not in values and field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InvalidInput(f"{source}: missing {', '.join(missing)}")
    hints = _hints(kind)
    plain = {key: _coerce(key, value, hints[key], source) for key, value in values.items()}
    try:
        return kind(**plain)
    except InvalidInput as error:
        raise InvalidInput(f"{source}: {error}") from None


def check_keys(values: Any, known: Iterable[str], *, source: str) -> None:
    """Raises InvalidInput unless `values` is a table without other keys than the `known`; names the first one."""
    if not isinstance(values, Mapping):
        raise InvalidInput(f"{source}: expected a table of keys and values, got {type(values).__name__}")
    unknown = sorted(set(map(str, values)) - set(known))
    if unknown:
        raise InvalidInput(f"{source}: unknown key {unknown[0]!r}; known keys are {', '.join(sorted(known))}")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _coerce(key: str, value: Any, hint: Any, source: str) -> Any:
    """The value in the type of its field, or InvalidInput."""
    origin = typing.get_origin(hint) or hint
    if origin in (types.UnionType, typing.Union):
        kinds = typing.get_args(hint)
        if type(value) in kinds and not isinstance(value, float):
            return value  # a whole number in a field of int | float stays one
        return _coerce(key, value, [one for one in kinds if one is not types.NoneType][-1], source)
    if origin is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(f"{source}: {key} must be a finite number, got {value}")
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


def whole_number(text: str, *, what: str, low: int = 0, high: int = LARGEST) -> int:
    """The number that a text of digits 0-9 spells. Raises InvalidInput naming `what` for another text, or out of range.

    >>> whole_number("12", what="--add", low=1)
    12
    """
    text = text.strip()
    digits = text.lstrip("0") or "0"
    if not (text.isascii() and text.isdigit()) or len(digits) > len(str(high)) or not low <= int(digits) <= high:
        shown = text if len(text) < 30 else f"{text[:30]}..."
        raise InvalidInput(f"{what} wants a whole number from {low} to {high}, got {shown!r}")
    return int(digits)


def whole_ranges(text: str, *, what: str, low: int = 0, high: int = LARGEST) -> list[int]:
    """The numbers of a list such as 1,2,5-8; none of an empty text. Raises InvalidInput as `whole_number`.

    >>> whole_ranges("1,5-8", what="--keep-atoms", low=1)
    [1, 5, 6, 7, 8]
    """
    found: list[int] = []
    for part in text.split(",") if text.strip() else ():
        first, dash, last = part.partition("-")
        start = whole_number(first, what=what, low=low, high=high)
        end = whole_number(last, what=what, low=low, high=high) if dash else start
        if end < start:
            raise InvalidInput(f"{what}: the range {part.strip()} ends before it begins")
        found += range(start, end + 1)
    return found


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
