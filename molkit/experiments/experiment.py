"""What an experiment is: its name, its tasks and their keys, how its rows are compared, and what its code is."""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import wraps
from pathlib import Path
from shlex import quote
from typing import Any

from molkit.claims.closure import code_of
from molkit.claims.ledger import REPOSITORY
from molkit.claims.provenance import digest, hash_files
from molkit.errors import InvalidInput

Row = dict[str, Any]
Measure = Callable[[Any], Sequence[Mapping[str, Any]]]
STUDIES = REPOSITORY / "molkit" / "studies"
MEASURES = re.compile(r"^def measure(|_[a-z0-9_]+)\(task", re.MULTILINE)
MISSING, ALL, AUDIT = "missing", "all", "audit"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How a recomputed row is compared with the stored one, and which rows cannot be compared one by one.

    within: by column, how far a number may lie from the stored one; of other columns it must be equal (to nine
    digits). free: columns that differ from run to run, such as times.

    alike: columns whose rows lie at the end of long chains, where rounding on another processor makes another one. Only
    their means are compared, for each group of `by`, and the number says how large a difference of the mean an audit
    must be able to see. `repeats` names the field of a task that only draws other random numbers: how far its rows
    scatter says how far recomputed ones may. `exact` are values of `by` whose rows are compared one by one after all.
    """

    within: Mapping[str, float] = field(default_factory=dict)
    free: tuple[str, ...] = ()
    alike: Mapping[str, float] = field(default_factory=dict)
    by: tuple[str, ...] = ()
    repeats: str = ""
    exact: tuple[str, ...] = ()

    @property
    def counted(self) -> str:
        """What is compared."""
        return "rows" if not self.alike else "rows and means" if self.exact else "means"


@dataclass(frozen=True)
class Experiment:
    """A function from one task to rows, under the name of its room."""

    name: str
    measure: Measure
    compared: Comparison
    source: Path
    root: Path = REPOSITORY

    @property
    def function(self) -> str:
        """Where the function is: `path:name`, the path below the repository."""
        inside = self.source.is_relative_to(self.root)
        path = self.source.relative_to(self.root).as_posix() if inside else str(self.source)
        return f"{path}:{self.measure.__name__}"

    def code(self) -> dict[str, str]:
        """Fingerprints of the code that the function reaches, by path."""
        return code_of(self.source, self.measure.__name__, root=self.root)


def experiment_of(measure: Measure, name: str | None = None) -> Experiment:
    """The experiment of a `measure`, named as its room; `measure_timing` of that room is the experiment `room_timing`.

    How its rows are compared stands in the room as `AUDIT` (`AUDIT_timing`). Raises InvalidInput for a function that is
    not in a file: nobody could say later what it was.
    """
    module = sys.modules.get(measure.__module__)
    file = getattr(module, "__file__", None)
    if file is None or measure.__qualname__ != measure.__name__:
        raise InvalidInput(f"{measure.__qualname__}: what measures must be a function of a file, not of a notebook")
    suffix = measure.__name__.removeprefix("measure")
    compared = getattr(module, f"AUDIT{suffix}", Comparison())
    return Experiment(name or measure.__module__.rpartition(".")[2] + suffix, measure, compared, Path(file).resolve())


def rooms(studies: Path = STUDIES) -> dict[str, tuple[str, str]]:
    """Module and ending of the functions of every experiment, by name; no room is imported."""
    found = {}
    for path in sorted(studies.glob("*/*.py")):
        module = f"molkit.studies.{path.parent.name}.{path.stem}"
        text = path.read_text(encoding="utf-8")
        ends = [end for end in MEASURES.findall(text) if f"\ndef tasks{end}(" in text]
        found |= {f"{path.stem}{end}": (module, end) for end in ends}
    return found


class Tasks(list):
    """Tasks that remember the options they were made with."""

    options: Mapping[str, Any]


def asked(tasks: Callable[..., list[Any]]) -> Callable[..., Tasks]:
    """Let the function `tasks` of a room remember its options, so that a page can name the command for them."""

    @wraps(tasks)
    def remembered(**options: Any) -> Tasks:
        made = Tasks(tasks(**options))
        made.options = options
        return made

    return remembered


def command_of(name: str, tasks: Sequence[Any]) -> str:
    """The command that computes these tasks outside a notebook."""
    words = ["molkit", "study", name]
    for option, value in getattr(tasks, "options", {}).items():
        flag = option.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            several = isinstance(value, Sequence) and not isinstance(value, str)
            words += [f"--{flag}", quote(",".join(map(str, value)) if several else str(value))]
    return " ".join(words)


def fields_of(task: Any) -> Row:
    """A task's fields as JSON holds them: numbers, words, lists. Raises InvalidInput for anything else."""
    if not is_dataclass(task) or isinstance(task, type):
        raise InvalidInput(f"a task is a frozen dataclass, got {type(task).__name__}")
    try:
        return json.loads(json.dumps(asdict(task), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{type(task).__name__}: its fields must be numbers, words and lists ({error})") from None


def inputs_of(task: Any) -> dict[str, str]:
    """SHA-256 of the weights and data files that a task names (its `files`), by path. Raises DataNotFound."""
    return hash_files(getattr(task, "files", ()))


def key_of(task: Any) -> str:
    """16 digits for a task: its fields, and the bytes of the weights and data it names."""
    return digest([fields_of(task), sorted(inputs_of(task).values())])


def label_of(fields: Mapping[str, Any]) -> str:
    """A task in words: its short fields."""
    return ", ".join(f"{name}={value}" for name, value in fields.items() if isinstance(value, str | int | float))


def read_recompute(text: str) -> tuple[str, int]:
    """`missing`, `all` or `audit:K` as a word and K. Raises InvalidInput for anything else."""
    word, colon, count = text.partition(":") if isinstance(text, str) else (text, "", "")
    if word in (MISSING, ALL) and not colon:
        return word, 0
    if word == AUDIT and count.isascii() and count.isdigit() and int(count) > 0:
        return word, int(count)
    raise InvalidInput(f"recompute is 'missing', 'all' or 'audit:K' with K of 1 or more, got {text!r}")
