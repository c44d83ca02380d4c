"""XYZ files, their comment lines (charge, multiplicity, energies) among them.

What the comment line of an XYZ frame says: name, charge, spin, and in extended XYZ the columns and the cell.

Understood, in any case of the letters: `charge=`, `total_charge=`, `net_charge:` and their like, whole numbers in any
form (+1, 1.0, "-1", 2-); `spin=` (2S), `unpaired=`, `uhf=`; `multiplicity=`, `mult=` (2S + 1); and a line of just two
whole numbers, charge and multiplicity, where these fit the number of electrons. A statement that cannot be understood,
contradicts another one, or a multiplicity that does not fit the number of electrons is an error, never left out; so are
coordinates said to be in bohr.

The XYZ format: an atom count, a comment line, and one row per atom, repeated; plain, extended, and QM9's.

Extended XYZ says in `Properties=` which column is what; its comment is read by ASE. QM9's files have three more lines
after the atoms.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from molkit.chem.text_files import Frame, line_error, read_text, shown
from molkit.errors import InvalidInput
from molkit.molecule import ATOMIC_NUMBER, SYMBOLS, Molecule

VALUE = (  # after = or :, or a whole number after a blank
    r"(?:\s*[=:]\s*|\s+(?=[+-]?\d{1,2}(?:$|[\s,;])))"
    r"(\"[^\"]*\"|'[^']*'|\[[^\]]*\]|[^\s,;]+)[,;]?"
)
WHOSE = (  # a noun with a blank behind it is the name of the molecule
    r"(?:(?:total|net|tot|overall|molecular|formal|ionic)[_ -]?|(?:molecule|mol|system|ion)[_-]?)?"
)
BARE_Q = r"q(?=\s*=\s*[\"']?[+-]?\d+(?:\.0*)?[\"']?(?:$|[\s,;]))"  # q=-1, not q=0.3 of something else
CHARGE = re.compile(rf"(?i)(?<![\w:])(?:{WHOSE}(?:charge|chrg)[\"']?|{BARE_Q}){VALUE}")
SPIN = re.compile(rf"(?i)(?<![\w:])(?:total[_ -]?)?(spin|unpaired(?:[_ ]electrons)?|n_?unpaired|uhf)[\"']?{VALUE}")
MULTIPLICITY = re.compile(rf"(?i)(?<![\w:])(?:(?:spin|molecular)[_ -]?)?(?:multiplicity|mult)[\"']?{VALUE}")
TWO_NUMBERS = re.compile(r"([+-]?\d{1,2})\s+(\d{1,2})")
WHOLE = re.compile(r"([+-]?)(\d{1,3})(?:\.0*)?([+-]?)")
BOHR = re.compile(r"(?i)(?<!\w)(?:units?\s*[=:]|in)\s*[\"']?(?:bohrs?|a\.u\.|au|atomic units)(?!\w)")
EXTENDED = re.compile(r"(?i)(?<!\w)(properties|lattice|pbc)\s*=")
QM9 = re.compile(r"gdb\s+\d+(?:\s+\S+){15}\s*")
ELEMENTS = ("species", "symbols", "symbol", "elements", "element", "z", "numbers", "atomic_numbers", "atomic_number")
POSITIONS = ("pos", "positions", "position", "coords", "coordinates", "xyz")
MASSES = ("mass", "masses")
LEAST_MASS_DIFFERENCE = 0.3  # of an isotope from the element's mean, in u; 35Cl is 0.48 away


@dataclass(frozen=True)
class Columns:
    """Where an atom row holds what, counted from 0."""

    element: int = 0
    position: int = 1
    width: int = 4
    charge: int | None = None  # ASE's initial_charges
    isotope: int | None = None
    mass: int | None = None
    plain: bool = True  # no Properties=

    def isotope_of(self, words: Sequence[str], number: int) -> int | None:
        """The mass number of a row's label, 0 for none, None for something else than a number."""
        column = self.mass if self.isotope is None else self.isotope
        if column is None:
            return 0
        try:
            value = float(words[column])
            whole = round(value)
        except (ValueError, OverflowError):
            return None
        if self.isotope is None:
            whole = whole if abs(value - _mean_mass(number)) > LEAST_MASS_DIFFERENCE else 0
        return whole if 0 <= whole < 400 else None


@dataclass(frozen=True)
class Comment:
    """What a comment states; None where it is silent."""

    name: str = ""
    charge: int | None = None
    spin: int | None = None  # 2S
    by_multiplicity: bool = False  # the spin was
    columns: Columns = Columns()
    is_qm9: bool = False
    two_numbers: tuple[int, int] | None = None  # perhaps charge and multiplicity

    def state_of(self, numbers: Sequence[int], column_charge: float) -> tuple[int, int]:
        """Charge and spin (2S) of the atoms. Raises InvalidInput where what is stated does not fit together."""
        charge = self.charge
        if abs(column_charge) > 0.5:
            whole = round(column_charge)
            if abs(whole - column_charge) > 0.05 or charge not in (None, whole):
                said = "no total" if charge is None else f"a total charge of {charge}"
                raise InvalidInput(
                    f"initial_charges add up to {column_charge:.3f} beside {said}; expected whole charges that agree"
                )
            charge = whole
        if self.two_numbers is not None and _fits(numbers, self.two_numbers[0], self.two_numbers[1] - 1):
            return self.two_numbers[0], self.two_numbers[1] - 1
        if self.by_multiplicity and not _fits(numbers, charge or 0, self.spin or 0):
            electrons = sum(numbers) - (charge or 0)
            raise InvalidInput(
                f"a multiplicity of {(self.spin or 0) + 1} does not fit {electrons} electrons (charge {charge or 0})"
            )
        return charge or 0, self.spin or 0


def _fits(numbers: Sequence[int], charge: int, spin: int) -> bool:
    electrons = sum(numbers) - charge
    return 0 <= spin <= electrons and (electrons - spin) % 2 == 0


def parse_comment(line: str) -> Comment | InvalidInput:
    """What a comment line says, or what is wrong with it."""
    line = line.strip()
    if BOHR.search(line):
        return InvalidInput("coordinates in bohr; expected angstrom, multiply by 0.529177 and leave the unit out")
    if QM9.fullmatch(line):
        return Comment(name=" ".join(line.split()[:2]), is_qm9=True)
    if two := TWO_NUMBERS.fullmatch(line):
        return Comment(name=line, two_numbers=(int(two[1]), int(two[2]))) if int(two[2]) else Comment(name=line)
    try:
        if EXTENDED.search(line):
            return _extended(line)
        return Comment(" ".join(_without_statements(line).split()), *_stated(line))
    except InvalidInput as error:
        return error


def _without_statements(line: str) -> str:
    """The comment without charge and spin; as it is where it states none."""
    for pattern in (CHARGE, SPIN, MULTIPLICITY):
        line = pattern.sub(" ", line)
    return line.strip()


def _stated(line: str) -> tuple[int | None, int | None, bool]:
    """Charge, spin (2S), whether by multiplicity. Raises InvalidInput for no whole number, or two that differ."""
    charge = _only("charge", [_whole("charge", found) for found in CHARGE.findall(line)])
    spins = [_whole(word.lower(), found) for word, found in SPIN.findall(line)]
    multiplicities = [_whole("multiplicity", found) for found in MULTIPLICITY.findall(line)]
    if any(value < 0 for value in spins) or any(value < 1 for value in multiplicities):
        raise InvalidInput("spin= (2S) must be at least 0 and multiplicity= (2S + 1) at least 1")
    return charge, _only("spin", spins + [value - 1 for value in multiplicities]), bool(multiplicities)


def _only(what: str, values: Sequence[int]) -> int | None:
    if len(set(values)) > 1:
        raise InvalidInput(f"two statements of the {what} that differ: {' and '.join(map(str, values))}")
    return values[0] if values else None


def _whole(what: str, text: str) -> int:
    """1, +1, 1.0, "-1", 2-, with a typographic minus too. Raises InvalidInput for anything else."""
    plain = text.strip("\"'[](){} \t").replace("\N{MINUS SIGN}", "-")
    match = WHOLE.fullmatch(plain)
    if match is None or (match[1] and match[3]):
        raise InvalidInput(f"expected a whole number for the {what}, got {text[:40]!r}")
    return int(f"{match[1] or match[3]}{match[2]}")


def _extended(line: str) -> Comment:
    """A comment in extended XYZ. Raises InvalidInput for a periodic cell or columns that make no molecule."""
    from ase.io.extxyz import key_val_str_to_dict  # half a second; plain files do without

    try:
        said = {key.lower(): value for key, value in key_val_str_to_dict(line).items()}
    except (ValueError, IndexError, TypeError, RecursionError) as error:
        raise InvalidInput(f"the comment begins as extended XYZ and cannot be read as such: {error}") from None
    _refuse_cell(said)
    columns = _columns(str(said["properties"])) if "properties" in said else Columns()
    rest = re.sub(r"(?i)(?<!\w)properties\s*=\s*(\"[^\"]*\"|\S+)", " ", line)
    name = next((str(said[key]) for key in ("name", "title", "label") if isinstance(said.get(key), str)), "")
    return Comment(" ".join(name.split()), *_stated(rest), columns=columns)


def _refuse_cell(said: dict[str, object]) -> None:
    """Raise InvalidInput for a structure that repeats; a lattice without pbc repeats, as in ASE."""
    if "pbc" in said:
        periodic = np.any([value in (True, 1) for value in np.atleast_1d(np.asarray(said["pbc"], dtype=object))])
    else:
        periodic = "lattice" in said
    if periodic:
        raise InvalidInput(
            'a periodic structure; expected one molecule in vacuum (pbc="F F F" if the box means nothing)'
        )


def _columns(properties: str) -> Columns:
    """Columns by name:type:count triples. Raises InvalidInput where elements or coordinates are missing."""
    parts = properties.split(":")
    first, start = {}, 0
    for name, kind, count in zip(parts[::3], parts[1::3], parts[2::3], strict=False):
        if kind not in tuple("RISL") or not (count.isascii() and count.isdigit()) or not 0 < int(count) < 1000:
            raise InvalidInput(f"Properties={properties[:60]}: expected name:type:count with a type R, I, S or L")
        first[name.lower()] = (start, int(count))
        start += int(count)
    element = next((first[name][0] for name in ELEMENTS if name in first), None)
    position = next((first[name][0] for name in POSITIONS if first.get(name, (0, 0))[1] == 3), None)
    if len(parts) % 3 or element is None or position is None:
        raise InvalidInput(
            f"Properties={properties[:60]}: expected species:S:1 (or Z:I:1) and pos:R:3 among the columns"
        )
    mass = next((first[name][0] for name in MASSES if name in first), None)
    isotope = next((first[name][0] for name in ("isotope", "isotopes") if name in first), None)
    charge = first["initial_charges"][0] if "initial_charges" in first else None
    return Columns(element, position, start, charge, isotope, mass, plain=False)


def _mean_mass(number: int) -> float:
    from ase.data import atomic_masses

    return float(atomic_masses[number]) if 0 < number < len(SYMBOLS) else 0.0


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
