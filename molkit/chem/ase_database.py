"""Molecules of an ASE database (SQLite), the format in which ISO17 is published. Nothing in it is unpickled."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ase.db import connect

from molkit.errors import DataNotFound, InvalidInput
from molkit.molecule import Molecule


def read_database(path: Path, *, energy_key: str = "total_energy", limit: int | None = None) -> Iterator[Molecule]:
    """Molecules in the order of the rows, the energy (in the file's unit) as property `energy` where there is one.

    Raises DataNotFound for no file, InvalidInput for one that is no such database.
    """
    path = Path(path)
    if not path.is_file():
        raise DataNotFound(f"no file at {path}")
    with open(path, "rb") as file:
        if file.read(15) != b"SQLite format 3":
            raise InvalidInput(f"{path}: expected an ASE database (SQLite), got another file")
    try:
        with connect(path, type="db") as database:
            for row in database.select(limit=limit):
                energy = row.key_value_pairs.get(energy_key)
                known = {} if energy is None else {"energy": float(energy)}
                yield Molecule(row.numbers, row.positions, name=f"{path.stem}_{row.id}", properties=known)
    except (sqlite3.DatabaseError, KeyError, ValueError, OSError) as error:
        raise InvalidInput(f"{path} is damaged or no ASE database: {error}") from error
