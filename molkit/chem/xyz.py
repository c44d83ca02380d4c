"""The XYZ format: an atom count, a comment line, and one row per atom, repeated."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from molkit.chem.text_files import Frame, line_error, read_lines
from molkit.errors import InvalidInput
from molkit.molecule import ATOMIC_NUMBER, SYMBOLS, Molecule

INTEGER = re.compile(r"[+-]?\d{1,9}")


def xyz_frames(path: Path) -> Iterator[Frame]:
    """Every frame of the file, or the error in its place; after a bad count line nothing more can be found."""
    lines = read_lines(path)
    row = 0
    while True:
        while row < len(lines) and not lines[row].strip():
            row += 1
        if row >= len(lines):
            return
        count = lines[row].strip()
        if not INTEGER.fullmatch(count) or int(count) < 1:
            yield line_error(path, row, "the number of atoms (1 or more)", count, "the rest of the file was not read")
            return
        frame, row = _xyz_molecule(path, lines, row, int(count))
        yield frame


def _xyz_molecule(path: Path, lines: Sequence[str], start: int, count: int) -> tuple[Frame, int]:
    """The frame whose count line is at `start`, and the row after it."""
    comment = lines[start + 1].strip() if start + 1 < len(lines) else ""
    numbers, positions = [], []
    problem, row = None, start + 2
    while len(numbers) < count:
        if row >= len(lines):
            missing = f"the end of the file after {len(numbers)}"
            hint = "the second line of a frame is a comment"
            return problem or line_error(path, start, f"{count} atom rows", missing, hint), row
        words = lines[row].split()
        if len(words) == 1 and INTEGER.fullmatch(words[0]):  # the count line of another frame came too early
            return problem or line_error(
                path, row, f"{count} atom rows", f"a lone number after {len(numbers)}", ""
            ), row
        if words:
            atom = _xyz_atom(path, row, words)
            problem = problem or (atom if isinstance(atom, InvalidInput) else None)
            number, position = (0, (0.0, 0.0, 0.0)) if isinstance(atom, InvalidInput) else atom
            numbers.append(number)
            positions.append(position)
        row += 1
    if problem is not None:
        return problem, row
    name, charge, spin = _parse_comment(comment)
    try:
        return Molecule(numbers, positions, charge=charge, spin=spin, name=name), row
    except InvalidInput as error:
        return InvalidInput(f"{path}, line {start + 1}: {error}"), row


def _xyz_atom(path: Path, row: int, words: list[str]) -> tuple[int, tuple[float, float, float]] | InvalidInput:
    """Atomic number and coordinates of one atom row; more columns than four are ignored."""
    if len(words) < 4:
        return line_error(path, row, "'element x y z'", " ".join(words), "")
    number = _atomic_number(words[0])
    if number is None:
        return line_error(path, row, f"an element (H to {SYMBOLS[-1]}, or its number)", words[0], "")
    try:
        x, y, z = (float(re.sub(r"\*\^|[dD]", "e", word)) for word in words[1:4])
    except ValueError:
        return line_error(path, row, "three coordinates in angstrom", " ".join(words[1:4]), "")
    return number, (x, y, z)


def _atomic_number(word: str) -> int | None:
    if word.isascii() and word.isdigit():
        return int(word) if 0 < int(word) < len(SYMBOLS) else None
    return ATOMIC_NUMBER.get(word.capitalize())


def _parse_comment(comment: str) -> tuple[str, int, int]:
    """Name, charge and spin from the comment line."""
    charge = re.search(r"(?:^|\s)charge=([+-]?\d{1,3})(?=\s|$)", comment)
    spin = re.search(r"(?:^|\s)spin=(\d{1,3})(?=\s|$)", comment)
    name = re.sub(r"(?:^|\s)(?:charge=[+-]?\d{1,3}|spin=\d{1,3})(?=\s|$)", "", comment).strip()
    return name, int(charge[1]) if charge else 0, int(spin[1]) if spin else 0


def xyz_frame(molecule: Molecule) -> str:
    """The text of one frame, coordinates with ten decimals."""
    words = [" ".join(molecule.name.split())]
    words += [f"charge={molecule.charge}"] if molecule.charge else []
    words += [f"spin={molecule.spin}"] if molecule.spin else []
    rows = [
        f"{symbol:<2} {x:16.10f} {y:16.10f} {z:16.10f}\n"
        for symbol, (x, y, z) in zip(molecule.symbols, molecule.positions.tolist(), strict=True)
    ]
    return f"{molecule.num_atoms}\n{' '.join(word for word in words if word)}\n{''.join(rows)}"
