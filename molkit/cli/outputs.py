"""What commands read, write and say: places are tried before the work begins, formats follow from names; exit codes.

An option of type `OutFile` or `OutFolder` is looked at before its command runs (`guard_outputs`). A file to come never
replaces an input of the same command, a device, or what a symbolic link points to. `-` is standard input or output.
How a command with many parts ends is one rule for all commands.
"""

import errno
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from molkit.errors import InvalidInput, PartlyDone

EXIT_CODES = (
    "Exit codes: 0, everything asked for was done; 3, part of it: what could be done is written, the rest is listed "
    "with its reason on standard error; 2, a mistake in what was asked, or nothing could be done: nothing is written; "
    "1, a fault of molkit; 130, interrupted."
)


def require_some(done: int, left_out: Mapping[str, str], *, noun: str = "molecules") -> None:
    """Before anything is written: raise InvalidInput, after the reasons are listed, where nothing could be done.

    `left_out` holds a reason for each name, such as "molecule 3".
    """
    if done:
        return
    if len(left_out) == 1:
        ((name, reason),) = left_out.items()
        raise InvalidInput(f"{name}: {reason}; nothing was written")
    _list(left_out)
    if not left_out:
        raise InvalidInput(f"there are no {noun}; nothing was written")
    raise InvalidInput(f"none of {len(left_out)} {noun} could be done (reasons above); nothing was written")


def end_of_parts(
    done: int, left_out: Mapping[str, str], incomplete: Mapping[str, str] | None = None, *, noun: str = "molecules"
) -> None:
    """The last call of a command with many parts: raises PartlyDone, after the reasons are listed, if any is missing.

    `incomplete` holds parts of which something was written, not all. Raises InvalidInput as `require_some` where
    nothing could be done.
    """
    incomplete = incomplete or {}
    require_some(done + len(incomplete), left_out, noun=noun)
    total = done + len(incomplete) + len(left_out)
    for name, reason in incomplete.items():
        click.echo(f"not complete, {name}: {reason}", err=True)
    if left_out:
        _list(left_out)
        raise PartlyDone(f"{len(left_out)} of {total} {noun} left out (reasons above), the others are done")
    if incomplete:
        raise PartlyDone(f"{len(incomplete)} of {total} {noun} not complete (reasons above)")


def _list(left_out: Mapping[str, str]) -> None:
    for name, reason in left_out.items():
        click.echo(f"left out, {name}: {reason}", err=True)


if TYPE_CHECKING:
    from molkit.chem.files import Reading
    from molkit.molecule import Molecule, PackedMolecules

STANDARD = Path("-")
STRUCTURE_FILES = (".xyz", ".sdf")
OUT_HELP = ".xyz or .sdf, also gzipped (.xyz.gz); or - for XYZ on standard output."
TRIAL_BYTES = 65_536  # written and removed again where a file will lie
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


class OutFile(click.Path):
    """A file that a command will write: its endings, whether `-` serves, whether its folder may be made."""

    def __init__(self, *suffixes: str, standard: bool = False, makes_folder: bool = False) -> None:
        super().__init__(path_type=Path, allow_dash=standard)
        self.suffixes, self.standard, self.makes_folder = suffixes, standard, makes_folder

    def try_place(self, out: Path, inputs: Iterable[object]) -> None:
        """Raise InvalidInput where the file cannot or must not be written."""
        if out == STANDARD and self.standard:
            return
        require_place(out, self.suffixes, inputs=inputs, makes_folder=self.makes_folder)


class OutFolder(click.Path):
    """A folder that a command will fill, and make where it is missing."""

    def __init__(self) -> None:
        super().__init__(file_okay=False, path_type=Path)

    def try_place(self, out: Path, inputs: Iterable[object]) -> None:
        """Raise InvalidInput where nothing can be written in the folder to come."""
        try_writing(_existing(out), label=out)


def guard_outputs(command: click.Command) -> None:
    """Let a command, and the parts of a group, try the places of its outputs before anything else; safe to repeat."""
    for part in command.commands.values() if isinstance(command, click.Group) else ():
        guard_outputs(part)
    inner = command.callback
    outputs = {str(one.name): one.type for one in command.params if isinstance(one.type, (OutFile, OutFolder))}
    if inner is None or not outputs or hasattr(inner, "guards_outputs"):
        return

    @wraps(inner)
    def guarded(*arguments: Any, **values: Any) -> Any:
        _try_places(outputs, values)
        return inner(*arguments, **values)

    guarded.guards_outputs = True  # type: ignore[attr-defined]
    command.callback = guarded


def _try_places(outputs: Mapping[str, OutFile | OutFolder], values: Mapping[str, Any]) -> None:
    inputs = [value for name, value in values.items() if name not in outputs]
    seen: set[Path] = set()
    for name, kind in outputs.items():
        out = values.get(name)
        if out is None:
            continue
        kind.try_place(out, inputs)
        if isinstance(kind, OutFile) and out != STANDARD and out.resolve() in seen:
            raise InvalidInput(f"{out} was named for two different results; give each its own name")
        seen.add(out.resolve())


def require_place(
    out: Path, suffixes: Sequence[str] = (), *, inputs: Iterable[object] = (), makes_folder: bool = False
) -> None:
    """Raise InvalidInput unless a file to come has a good name, replaces nothing it must not, and can be written.

    A name may end in .gz besides. `inputs` are what the command reads: paths, texts that may be paths, or lists of
    these. The folder must exist unless the command makes it.
    """
    from molkit.chem.text_files import is_packed, kind_of

    if suffixes and is_packed(out) and kind_of(out) == ".npz":
        raise InvalidInput(f"{out}: an .npz file is packed in itself; leave out .gz")
    if suffixes and kind_of(out) not in suffixes:
        *most, last = suffixes
        endings = f"{', '.join(most)} or {last}" if most else last
        raise InvalidInput(f"{out}: the name must end in {endings}")
    if out.is_symlink():
        raise InvalidInput(f"{out} is a symbolic link to {os.readlink(out)}; name the file itself, or another one")
    if out.is_dir():
        raise InvalidInput(f"{out} is a folder; expected the name of a file")
    if out.exists() and not out.is_file():
        raise InvalidInput(f"{out} is a device or a pipe; expected the name of a file")
    for given in _paths(inputs):
        if given.exists() and out.exists() and given.samefile(out):
            raise InvalidInput(f"{out} is an input of this command and would be replaced; choose another name")
    if out.exists() and not os.access(out, os.W_OK):
        raise InvalidInput(f"{out} is write-protected; choose another name")
    if not makes_folder and not out.parent.is_dir():
        raise InvalidInput(f"{out}: the folder {out.parent} does not exist")
    try_writing(_existing(out.parent), label=out)


def _paths(inputs: Iterable[object]) -> Iterable[Path]:
    """The texts and paths among (lists of) values, and what follows an equals sign in them."""
    for value in inputs:
        if isinstance(value, (list, tuple)):
            yield from _paths(value)
        elif isinstance(value, (str, Path)) and str(value) and "\0" not in str(value) and len(str(value)) < 4096:
            for text in {str(value), str(value).rpartition("=")[2]}:
                if all(len(part.encode()) < 256 for part in text.split("/")):
                    yield Path(text)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def try_writing(folder: Path, *, label: Path) -> None:
    """Write a little into a folder and remove it again. Raises InvalidInput, about the label, where that fails."""
    if not folder.is_dir():
        raise InvalidInput(f"{label}: {folder} is no folder")
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(TRIAL_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InvalidInput(f"{label}: cannot write in {folder}: {error.strerror}; choose another place") from None


def disk_message(error: OSError) -> str | None:
    """One line about a disk that is full or refuses, or None for another error."""
    if error.errno not in DISK_ERRORS:
        return None
    where = f" ({error.filename})" if error.filename else ""
    return f"writing failed: {error.strerror}{where}; make room or choose another place, and run the command again"


def tell(out: Path, text: str) -> None:
    """A line about what was written: on standard error where standard output carries the result."""
    click.echo(text, err=out == STANDARD)


def read_input(path: Path, *, check_overlap: bool = True, without_hydrogens: bool = False) -> "Reading":
    """The molecules of a file or of standard input, in any of our formats: .xyz, .sdf, .mol and .npz, gzipped or not.

    The format of standard input is told from what comes; molecules that may lack their hydrogens are pointed out on
    standard error. Raises what the readers raise.
    """
    reading = _read(path, check_overlap=check_overlap, without_hydrogens=without_hydrogens)
    if bare := [reading.indices[row] + 1 for row in _bare(reading.molecules)]:
        places = ", ".join(map(str, bare[:5])) + (", ..." if len(bare) > 5 else "")
        click.echo(
            f"{len(bare)} molecules ({places}) have open valences and no hydrogen: taken as they are; were hydrogens "
            "left out?",
            err=True,
        )
    return reading


def _bare(molecules: "Sequence[Molecule]") -> list[int]:
    """Rows of carbon compounds without hydrogen that are unstable by EDM's rule; none where it cannot judge."""
    from molkit.metrics.score import scorable
    from molkit.metrics.stability import stability
    from molkit.molecule import PackedMolecules

    rows = [
        row
        for row, one in enumerate(molecules)
        if one.num_atoms > 1 and 6 in one.atomic_numbers and 1 not in one.atomic_numbers
    ]
    known, _ = scorable([molecules[row] for row in rows], rule="edm")
    if not known:
        return []
    rows = [rows[place] for place in known]
    stable = stability(PackedMolecules.from_molecules([molecules[row] for row in rows])).molecule_stable
    return [row for row, whole in zip(rows, stable.tolist(), strict=True) if not whole]


def _read(path: Path, *, check_overlap: bool, without_hydrogens: bool) -> "Reading":
    from molkit.chem.files import molecules_in, read_molecules
    from molkit.chem.text_files import kind_of, read_bytes
    from molkit.data.packed import read_packed

    options = {"check_overlap": check_overlap, "without_hydrogens": without_hydrogens}
    if kind_of(path) == ".npz":
        return _of_pack(read_packed(path, content=read_bytes(path)), path, check_overlap)
    if path != STANDARD:
        return read_molecules(path, **options)
    content = read_bytes(path)
    if content.startswith(b"PK\3\4"):
        return _of_pack(read_packed(path, content=content), path, check_overlap)
    return molecules_in(content, path, **options)


def _of_pack(molecules: "PackedMolecules", path: Path, check_overlap: bool) -> "Reading":
    """A pack as other files are read: with atoms on top of each other listed."""
    from molkit.chem.files import OVERLAP_ANGSTROM, Problem, Reading, closest_overlap

    kept, problems = {}, []
    for row, molecule in enumerate(molecules):
        if check_overlap and closest_overlap(molecule) is not None:
            problems.append(Problem(row, f"{path}: two atoms are closer than {OVERLAP_ANGSTROM} angstrom"))
        else:
            kept[row] = molecule
    return Reading(tuple(kept.values()), tuple(kept), tuple(problems))


def write_output(out: Path, molecules: "Sequence[Molecule] | PackedMolecules") -> None:
    """Write in the format of the file's ending, XYZ to standard output; names molecules whose bonds SDF cannot state.

    Raises InvalidInput when that fails; what stood there before is then unchanged.
    """
    from molkit.chem.files import sdf_text, xyz_text
    from molkit.chem.text_files import kind_of, write_atomically
    from molkit.data.packed import write_packed
    from molkit.molecule import PackedMolecules

    if out == STANDARD:
        click.echo(xyz_text(molecules), nl=False)
    elif kind_of(out) == ".npz":
        write_packed(out, PackedMolecules.from_molecules(molecules))
    elif kind_of(out) == ".sdf":
        text, problems = sdf_text(molecules)
        write_atomically(out, text)
        for problem in problems:
            click.echo(f"molecule {problem.index + 1}: {problem.reason}", err=True)
    else:
        write_atomically(out, xyz_text(molecules))
