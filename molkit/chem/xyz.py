"""The XYZ format: an atom count, a comment line, and one row per atom, repeated; plain, extended, and QM9's.

Extended XYZ says in `Properties=` which column is what; its comment is read by ASE. QM9's files have three more lines
after the atoms. What a comment states about charge and spin is in `molkit.chem.xyz_comments`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from molkit.chem.text_files import Frame, line_error, read_text, shown
from molkit.chem.xyz_comments import Columns, Comment, parse_comment
from molkit.errors import InvalidInput
from molkit.molecule import ATOMIC_NUMBER, SYMBOLS, Molecule

INTEGER = re.compile(r"[+-]?\d{1,9}")
EXPONENT = re.compile(r"\*\^|[dD]")  # Mathematica's and Fortran's
ISOTOPES = {"D": (1, 2), "T": (1, 3)}
LABELLED = re.compile(r"(\d{1,3})([A-Za-z]{1,2})")  # 13C
HYDROGENS = {2: "D", 3: "T"}


@dataclass(frozen=True)
class Atom:
    """One atom row."""

    number: int
    position: tuple[float, float, float]
    isotope: int = 0
    charge: float = 0.0  # of an `initial_charges` column


def xyz_frames(path: Path, text: str | None = None) -> Iterator[Frame]:
    """Every frame of the file, or the error in its place; after a bad count line nothing more can be found."""
    lines = (read_text(path) if text is None else text).split("\n")
    row = 0
    while True:
        row = _next_filled(lines, row)
        if row >= len(lines):
            return
        count = lines[row].strip()
        if not INTEGER.fullmatch(count) or int(count) < 1:
            yield line_error(path, row, "the number of atoms (1 or more)", count, "the rest of the file was not read")
            return
        frame, row = _xyz_molecule(path, lines, row, int(count))
        yield frame


def _next_filled(lines: Sequence[str], row: int) -> int:
    """The first row from `row` on that is not blank, or the number of rows."""
    while row < len(lines) and not lines[row].strip():
        row += 1
    return row


def _xyz_molecule(path: Path, lines: Sequence[str], start: int, count: int) -> tuple[Frame, int]:
    """The frame whose count line is at `start`, and the row after it."""
    comment = parse_comment(lines[start + 1] if start + 1 < len(lines) else "")
    columns = Columns() if isinstance(comment, InvalidInput) else comment.columns
    problem = InvalidInput(f"{shown(path)}, line {start + 2}: {comment}") if isinstance(comment, InvalidInput) else None
    atoms: list[Atom] = []
    found, row, suspect = 0, start + 2, columns.plain
    while found < count:
        if row >= len(lines):
            missing = f"the end of the file after {found}"
            hint = "the second line of a frame is a comment"
            return problem or line_error(path, start, f"{count} atom rows", missing, hint), row
        words = lines[row].split()
        if len(words) == 1 and INTEGER.fullmatch(words[0]):  # the count line of another frame came too early
            return problem or line_error(path, row, f"{count} atom rows", f"a lone number after {found}", ""), row
        if words:
            atom = _xyz_atom(path, row, words, columns)
            found += 1
            if isinstance(atom, InvalidInput):
                problem = problem or atom
            else:
                atoms.append(atom)
                suspect = suspect and len(words) > 4 and words[1] == str(atom.number)
        row += 1
    if problem is None and suspect:
        hint = "say which column is what with Properties=, or leave that column out"
        problem = line_error(path, start + 2, "'element x y z'", "atomic numbers in the second column", hint)
    if isinstance(comment, Comment) and comment.is_qm9:
        row = _after_qm9(lines, row)
    return problem or _assembled(path, start, atoms, comment), row


def _after_qm9(lines: Sequence[str], row: int) -> int:
    """The row after frequencies, SMILES and InChI, as far as they are there."""
    for looks_right in (_all_numbers, lambda line: not INTEGER.fullmatch(line), lambda line: line.startswith("InChI")):
        following = _next_filled(lines, row)
        if following >= len(lines) or not looks_right(lines[following].strip()):
            return row
        row = following + 1
    return row


def _all_numbers(line: str) -> bool:
    return all(_number(word) is not None for word in line.split())


def _assembled(path: Path, start: int, atoms: Sequence[Atom], comment: Comment) -> Frame:
    """The molecule of the rows, with what the comment states; or what does not fit together."""
    isotopes = np.array([atom.isotope for atom in atoms])
    try:
        charge, spin = comment.state_of([atom.number for atom in atoms], sum(atom.charge for atom in atoms))
        return Molecule(
            [atom.number for atom in atoms],
            [atom.position for atom in atoms],
            charge=charge,
            spin=spin,
            name=comment.name,
            isotopes=isotopes if isotopes.any() else None,
        )
    except InvalidInput as error:
        return InvalidInput(f"{shown(path)}, line {start + 1}: {error}")


def _xyz_atom(path: Path, row: int, words: list[str], columns: Columns) -> Atom | InvalidInput:
    """What one atom row says; columns that are not asked for are ignored."""
    if len(words) < columns.width:
        expected = "'element x y z'" if columns.plain else f"{columns.width} columns as Properties= says"
        return line_error(path, row, expected, " ".join(words), "")
    element = _element(words[columns.element])
    if element is None:
        return line_error(path, row, f"an element (H to {SYMBOLS[-1]}, or its number)", words[columns.element], "")
    number, isotope = element
    places = words[columns.position : columns.position + 3]
    x, y, z = (_number(word) for word in places)
    if x is None or y is None or z is None:
        return line_error(path, row, "three coordinates in angstrom", " ".join(places), "")
    if columns.plain:
        return Atom(number, (x, y, z), isotope)
    charge = 0.0 if columns.charge is None else _number(words[columns.charge])
    labelled = columns.isotope_of(words, number)
    if charge is None or labelled is None:
        return line_error(path, row, "numbers for charge, mass and isotope", " ".join(words), "")
    return Atom(number, (x, y, z), isotope or labelled, charge)


def _element(word: str) -> tuple[int, int] | None:
    """Atomic number and isotope (0: none stated) of C, 6, D, T, 13C; None for anything else."""
    if word.isascii() and word.isdigit():
        return (int(word), 0) if len(word) < 4 and 0 < int(word) < len(SYMBOLS) else None
    if number := ATOMIC_NUMBER.get(word.capitalize()):
        return number, 0
    if found := ISOTOPES.get(word.upper()):
        return found
    labelled = LABELLED.fullmatch(word)
    number = ATOMIC_NUMBER.get(labelled[2].capitalize()) if labelled else None
    return (number, int(labelled[1])) if labelled and number and number <= int(labelled[1]) <= 3 * number + 1 else None


def _number(word: str) -> float | None:
    """A float, also with the exponents of Mathematica and Fortran; None for anything else."""
    try:
        return float(word)
    except ValueError:
        pass
    try:
        return float(EXPONENT.sub("e", word))
    except ValueError:
        return None


def xyz_frame(molecule: Molecule) -> str:
    """The text of one frame, coordinates with ten decimals; isotopes of hydrogen as D and T, others in a column."""
    isotopes = [0] * molecule.num_atoms if molecule.isotopes is None else molecule.isotopes.tolist()
    symbols = [
        HYDROGENS.get(isotope, "H") if symbol == "H" else symbol
        for symbol, isotope in zip(molecule.symbols, isotopes, strict=True)
    ]
    in_column = any(isotope and symbol not in "DT" for symbol, isotope in zip(symbols, isotopes, strict=True))
    name = " ".join(molecule.name.split())
    if in_column:
        name = f'Properties=species:S:1:pos:R:3:isotope:I:1 name="{name.replace(chr(34), chr(39))}"'
    words = [name]
    words += [f"charge={molecule.charge}"] if molecule.charge else []
    words += [f"spin={molecule.spin}"] if molecule.spin else []
    rows = [
        f"{symbol:<2} {x:16.10f} {y:16.10f} {z:16.10f}{f' {isotope}' if in_column else ''}\n"
        for symbol, (x, y, z), isotope in zip(symbols, molecule.positions.tolist(), isotopes, strict=True)
    ]
    return f"{molecule.num_atoms}\n{' '.join(word for word in words if word)}\n{''.join(rows)}"
