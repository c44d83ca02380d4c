"""The test molecules of the conformer-generation papers on GEOM: SMILES and reference counts, without coordinates.

Sources: GEOM, Axelrod and Gomez-Bombarelli, Sci. Data 9, 185 (2022); the list as distributed with GeoMol.

GEOM-Drugs as its authors published it: conformers of some 304,000 molecules, cut down to the lowest in energy.

Source: GEOM, Axelrod and Gomez-Bombarelli, Sci. Data 9, 185 (2022); `drugs_crude.msgpack` of doi 10.7910/DVN/JNGTDF.
The file is a stream of maps SMILES -> {conformers: [{xyz: [[Z, x, y, z], ...], totalenergy, relativeenergy,
boltzmannweight, ...}, ...], ...}, angstrom and hartree, about 1,000 molecules a map. EDM keeps the 30 conformers of
lowest total energy. Nothing is fetched here, and nothing unpickled: a person downloads the file (some 50 GB), and
`convert_geom_drugs` writes a folder of packed parts, once.
"""

import contextlib
import csv
import json
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from molkit.data.drug_size import Split, size_histogram, split_of_key
from molkit.data.message_stream import MessageReader
from molkit.data.packed import pack, unpack, write_arrays
from molkit.data.registry import data_path, data_root, load_arrays
from molkit.errors import DataNotFound, InvalidInput
from molkit.molecule import SYMBOLS, PackedMolecules

SETS = {"drugs": "geom_drugs_test", "qm9": "geom_qm9_test"}


@dataclass(frozen=True)
class GeomTestMolecule:
    """One test molecule."""

    smiles: str
    num_reference_conformers: int


def load_geom_test(name: Literal["drugs", "qm9"], *, root: Path | None = None) -> list[GeomTestMolecule]:
    """The 1,000 test molecules of GEOM-Drugs or GEOM-QM9, in their published order."""
    if name not in SETS:
        raise InvalidInput(f"unknown GEOM test set {name!r}: expected 'drugs' or 'qm9'")
    with open(data_path("geom_test_smiles.csv", root=root), encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["set"] == SETS[name]]
    return [GeomTestMolecule(row["smiles"], int(row["n_reference_conformers"])) for row in rows]


ADDRESS = "https://dataverse.harvard.edu/api/access/datafile/4360331"
ELEMENTS = (1, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 33, 35, 53, 80, 83)  # H B C N O F Al Si P S Cl As Br I Hg Bi
FOLDER = "geom_drugs"
PLAN, INDEX, RECIPE = "convert.json", "index.json", "recipe.yaml"
HOW = f"download {ADDRESS} and run `molkit data convert geom_drugs FILE`"
SplitBy = Literal["molecule", "conformer"]


@dataclass(frozen=True, eq=False)
class Ensemble:
    """The conformers kept of one molecule, lowest energy first."""

    smiles: str
    atomic_numbers: np.ndarray  # [C, A] int64; atoms may be ordered differently from conformer to conformer
    positions: np.ndarray  # [C, A, 3] float64, angstrom
    energies: np.ndarray  # [C] float64, total energy in hartree
    weights: np.ndarray  # [C] float64, Boltzmann weights as published (NaN where the file has none)


@dataclass(frozen=True)
class ConvertResult:
    """What a conversion wrote; `refused` lists SMILES and reason of molecules left out."""

    folder: Path
    num_molecules: int
    num_conformers: int
    num_parts: int
    refused: tuple[tuple[str, str], ...]


def read_release(path: Path) -> Iterator[tuple[str, dict]]:
    """SMILES and published entry of every molecule of `drugs_crude.msgpack` or `qm9_crude.msgpack`, plain or in its
    .tar.gz, as a stream.

    Raises DataNotFound, or InvalidInput for a truncated or damaged file or another layout.
    """
    path = Path(path)
    if not path.is_file():
        raise DataNotFound(f"no file at {path}: {HOW}")
    try:
        with _open_stream(path) as stream:
            reader = MessageReader(stream, label=str(path))
            if reader.at_end():
                raise InvalidInput(f"{path} holds no molecules: it is empty, download it again")
            while not reader.at_end():
                for _ in range(reader.map_length()):
                    smiles, entry = reader.text(), reader.value()
                    if not isinstance(entry, dict) or not isinstance(entry.get("conformers"), list):
                        raise InvalidInput(
                            f"{path}, molecule {smiles!r}: expected a map with a list of `conformers`, as in "
                            "drugs_crude.msgpack; drugs_featurized.msgpack and the RDKit pickles are other files"
                        )
                    yield smiles, entry
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InvalidInput(f"{path} is cut off or damaged ({error}): download it again from {ADDRESS}") from error


@contextlib.contextmanager
def _open_stream(path: Path) -> Iterator[BinaryIO]:
    """The bytes of the .msgpack file, or of the one regular member of that name in a tar archive."""
    if path.suffix == ".msgpack":
        with open(path, "rb") as file:
            yield file
        return
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(("drugs_crude.msgpack", "qm9_crude.msgpack")):
                yield archive.extractfile(member)
                return
    raise InvalidInput(f"{path} holds no drugs_crude.msgpack: {HOW}")


def lowest_conformers(smiles: str, entry: dict, *, num_conformers: int = 30) -> Ensemble:
    """The conformers of lowest total energy of one published entry, ties in the order of the file.

    Source: EDM, appendix on GEOM, and its reference code. Raises InvalidInput for a conformer without energy or
    coordinates, with another number of atoms than the first, or with an element outside ELEMENTS.
    """
    label, conformers = f"GEOM molecule {smiles!r}", entry["conformers"]
    try:
        energies = np.array([float(one["totalenergy"]) for one in conformers])
        kept = np.argsort(energies, kind="stable")[:num_conformers]
        tables = [np.asarray(conformers[row]["xyz"], dtype=np.float64) for row in kept]
        weights = np.array([float(conformers[row].get("boltzmannweight", np.nan)) for row in kept])
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"{label}: expected `xyz` and `totalenergy` in every conformer ({error})") from error
    if not tables or any(table.ndim != 2 or table.shape[1] != 4 for table in tables):
        raise InvalidInput(f"{label}: expected conformers with rows of Z, x, y, z, got {len(tables)} conformers")
    if len({len(table) for table in tables}) != 1:
        raise InvalidInput(f"{label}: conformers with different numbers of atoms")
    stacked = np.stack(tables)
    numbers = stacked[:, :, 0]
    if not (np.isfinite(stacked).all() and np.isfinite(energies[kept]).all()):
        raise InvalidInput(f"{label}: a coordinate or energy that is not finite")
    unknown = np.setdiff1d(numbers, ELEMENTS)
    if len(unknown):
        raise InvalidInput(f"{label}: element with Z = {unknown[0]:g}, which the paper's 16 types do not hold")
    return Ensemble(smiles, numbers.astype(np.int64), stacked[:, :, 1:], energies[kept], weights)


def convert_geom_drugs(
    source: Path,
    folder: Path | None = None,
    *,
    num_conformers: int = 30,
    part_molecules: int = 1000,
    on_molecule: Callable[[], None] | None = None,
) -> ConvertResult:
    """Write `folder` (default data/sets/geom_drugs): packed parts, `index.json`, and a recipe with the measured sizes.

    Each part appears whole or not at all, and those that are there are kept: an interrupted conversion continues
    (the source is read again from its beginning). The index comes last. Molecules that cannot be used are listed in it.

    Raises what `read_release` raises, and InvalidInput when the folder holds a conversion of something else.
    """
    folder = data_root() / FOLDER if folder is None else Path(folder)
    plan = {"source": Path(source).name, "num_conformers": num_conformers, "part_molecules": part_molecules}
    if num_conformers < 1 or part_molecules < 1:
        raise InvalidInput(
            f"need at least one conformer and one molecule a part, got {num_conformers}, {part_molecules}"
        )
    molecules = read_release(source)
    _claim_folder(folder, plan)
    parts, refused, kept = [], [], []
    for number, (smiles, entry) in enumerate(molecules, start=1):
        try:
            kept.append(lowest_conformers(smiles, entry, num_conformers=num_conformers))
        except InvalidInput as error:
            refused.append([smiles, str(error)])
        if on_molecule is not None:
            on_molecule()
        if number % part_molecules == 0:
            parts.append(_write_part(folder, len(parts), kept))
            kept = []
    if kept:
        parts.append(_write_part(folder, len(parts), kept))
    _write_json(folder / INDEX, plan | {"parts": parts, "refused": refused})
    totals = {key: sum(part[key] for part in parts) for key in ("num_molecules", "num_conformers")}
    if totals["num_conformers"]:
        _write_recipe(folder)
    return ConvertResult(folder, num_parts=len(parts), refused=tuple((a, b) for a, b in refused), **totals)


def load_geom_drugs(
    *,
    split: Split = "train",
    split_by: SplitBy = "molecule",
    limit: int | None = None,
    folder: Path | None = None,
) -> PackedMolecules:
    """Conformers of a converted release, named by their SMILES, in the order of the file; angstrom.

    split_by "molecule" (default): all conformers of a SMILES go where its SHA-256 says, 80 / 10 / 10 %.
    "conformer" is the paper's way: a random permutation of all conformers, its first tenth validates, the second
    tests. Conformers of one molecule then lie on both sides (leakage), so test figures flatter. The authors' stored
    permutation is not at hand: this one is NumPy's legacy generator with seed 0.
    `limit` takes that many conformers spread evenly over the split.

    Raises DataNotFound when nothing was converted, InvalidInput for an unknown split or a damaged folder.
    """
    folder = data_root() / FOLDER if folder is None else Path(folder)
    if split not in ("train", "valid", "test", "all") or split_by not in ("molecule", "conformer"):
        raise InvalidInput(
            f"unknown split {split!r} by {split_by!r}: expected train, valid, test or all, by molecule or conformer"
        )
    if limit is not None and limit < 1:
        raise InvalidInput(f"a limit of {limit} molecules makes no data set: give at least 1")
    index = _read_index(folder)
    counts = [part["num_conformers"] for part in index["parts"]]
    chosen = _rows_by_part(folder, index, split, split_by, counts)
    rows = np.flatnonzero(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)
    if limit is not None and limit < len(rows):
        rows = rows[np.arange(limit) * len(rows) // limit]
    ends = np.cumsum([0, *counts])
    packs = []
    for number, (begin, end) in enumerate(zip(ends[:-1], ends[1:], strict=True)):
        inside = rows[(rows >= begin) & (rows < end)] - begin
        if len(inside):
            packs.append(_read_part(folder, number).select(inside))
    return _join(packs)


def leaky_split(num_conformers: int) -> dict[str, np.ndarray]:
    """Rows of train, valid and test by a random permutation of conformers, ascending in each."""
    order = np.random.RandomState(0).permutation(num_conformers)
    tenth = int(0.1 * num_conformers)
    valid, test, train = np.split(order, [tenth, 2 * tenth])
    return {"train": np.sort(train), "valid": np.sort(valid), "test": np.sort(test), "all": np.arange(num_conformers)}


def _rows_by_part(folder: Path, index: dict, split: str, split_by: str, counts: list[int]) -> list[np.ndarray]:
    """For each part, whether each of its conformers is in the split, bool."""
    if split_by == "conformer":
        chosen = np.zeros(sum(counts), dtype=bool)
        chosen[leaky_split(len(chosen))[split]] = True
        return np.split(chosen, np.cumsum(counts)[:-1])
    masks = []
    for part in index["parts"]:
        arrays = load_arrays(folder / part["file"])
        inside = np.array([split in ("all", split_of_key(smiles)) for smiles in arrays["smiles"].tolist()], dtype=bool)
        masks.append(inside[arrays["molecule"]])
    return masks


def _claim_folder(folder: Path, plan: dict) -> None:
    """Make the folder, or check that what lies there was begun with the same plan."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PLAN
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != plan:
        raise InvalidInput(f"{folder} holds the conversion of another file or with other options: choose another --out")
    if not path.is_file():
        _write_json(path, plan)


def _write_part(folder: Path, number: int, kept: list[Ensemble]) -> dict:
    """One packed part, unless it is there; returns its line of the index."""
    path = folder / f"part-{number:05d}.npz"
    if not path.is_file():
        _write_ensembles(path, kept)
    return {"file": path.name, "num_molecules": len(kept), "num_conformers": sum(len(one.energies) for one in kept)}


def _write_ensembles(path: Path, kept: list[Ensemble]) -> None:
    counts = np.array([len(one.energies) for one in kept], dtype=np.int64)
    sizes = np.array([one.atomic_numbers.shape[1] for one in kept], dtype=np.int64)
    gather = lambda name, empty: np.concatenate([getattr(one, name).reshape(empty) for one in kept] or [np.zeros(0)])  # noqa: E731
    molecules = PackedMolecules(
        np.repeat(sizes, counts),
        gather("atomic_numbers", -1).astype(np.int64),
        gather("positions", (-1, 3)).reshape(-1, 3),
    )
    extra = {
        "molecule": np.repeat(np.arange(len(kept)), counts).astype(np.int32),
        "smiles": np.array([one.smiles for one in kept], dtype=np.str_),
        "energies": gather("energies", -1),
        "weights": gather("weights", -1),
    }
    write_arrays(path, pack(molecules) | extra, level=1)


def _read_part(folder: Path, number: int) -> PackedMolecules:
    """One part with the SMILES as names."""
    path = folder / f"part-{number:05d}.npz"
    arrays = load_arrays(path)
    found = unpack(arrays, label=str(path))
    return PackedMolecules(
        found.num_atoms, found.atomic_numbers, found.positions, tuple(arrays["smiles"][arrays["molecule"]].tolist())
    )


def _join(packs: list[PackedMolecules]) -> PackedMolecules:
    if not packs:
        return PackedMolecules(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3)))
    return PackedMolecules(
        np.concatenate([part.num_atoms for part in packs]),
        np.concatenate([part.atomic_numbers for part in packs]),
        np.concatenate([part.positions for part in packs]),
        tuple(name for part in packs for name in part.names),
    )


def _read_index(folder: Path) -> dict:
    path = folder / INDEX
    if not path.is_file():
        unfinished = "the conversion there is not finished; run it again to continue" if folder.is_dir() else HOW
        raise DataNotFound(f"no converted GEOM-Drugs in {folder}: {unfinished}")
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, values: dict) -> None:
    partial = path.with_name(path.name + ".writing")
    partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _write_recipe(folder: Path) -> None:
    """The paper's GEOM-Drugs training with the sizes of the training part that was just written."""
    train = load_geom_drugs(split="train", folder=folder)
    sizes = ", ".join(f"[{size}, {count}]" for size, count in size_histogram(train)) or "[1, 1]"
    present = ", ".join(SYMBOLS[number] for number in np.unique(train.atomic_numbers).tolist())
    text = RECIPE_TEXT.format(sizes=sizes, elements=", ".join(map(str, ELEMENTS)), present=present, count=len(train))
    (folder / RECIPE).write_text(text, encoding="utf-8")


RECIPE_TEXT = """# EDM's GEOM-Drugs model and training, written by `molkit data convert geom_drugs`.
# Sizes are those of the {count} training conformers (split by molecule); elements there: {present}.
# All of GEOM-Drugs takes some 50 GB of memory; `molkit train --limit 1000000` takes fewer conformers, spread evenly.
method: edm
data: {{name: geom_drugs, split: train}}
model:
  width: 256
  num_layers: 4
  atomic_number_channel: false
  elements: [{elements}]
  sizes: [{sizes}]
training:
  batch_pairs: 136000
  learning_rate: 1.0e-4
  warmup_steps: 0
  decay_fraction: 0.0
  amsgrad: true
  ema_decay: 0.9999
  clip: queue
  stratified_steps: false
  engine: auto
"""
