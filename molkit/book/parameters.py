"""What the parameters of a chapter may be: the types that its parameters cell states, and numbers in their range."""

import ast
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
