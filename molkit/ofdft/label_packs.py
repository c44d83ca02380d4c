"""Thinned sets of density labels in one file: what a training on the total energy or on Ts + E_xc needs, in few bytes.

Of every molecule the ground state and a few other samples are kept. Coefficients of the ground state are float32,
those of the others differences to it, and slopes are those of the total energy, which are small near a ground state;
both in half precision, relative to the largest value of their row. Energies are kept as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from molkit.data.packed import write_arrays
from molkit.data.registry import load_arrays
from molkit.errors import InvalidInput
from molkit.molecule import Molecule
from molkit.ofdft.basis import basis_fingerprint
from molkit.ofdft.integrals import DensityIntegrals, density_integrals
from molkit.ofdft.label_files import LabelledMolecule, load_folder, require_basis
from molkit.ofdft.labels import Labels, Target
from molkit.ofdft.reduction import excess_energies

CEILING = 0.4  # hartree above the ground state, up to which samples are packed
SMALLEST = 1e-30  # largest value of a row that counts as nothing but zeros
HALVED = ("guess", "moved", "slopes")
KEYS = (
    *("class_name", "split", "basis", "names", "num_atoms", "atomic_numbers", "positions", "nuclear"),
    *("num_functions", "num_samples", "electronic", "source", "ground", *HALVED),
    *(f"{key}_scale" for key in HALVED),
)


class PackedLabels(Labels):
    """Labels of a packed set: `gradient` is the slope of the total energy; what a pack does not hold is NaN."""

    def value(self, target: Target, integrals: DensityIntegrals) -> np.ndarray:
        """Value labels, [S]. Raises InvalidInput for a target other than TsExc and total."""
        _require_packed(target)
        return super().value(target, integrals)

    def target_gradient(self, target: Target, integrals: DensityIntegrals) -> np.ndarray:
        """Gradient labels, [S, M]. Raises InvalidInput for a target other than TsExc and total."""
        _require_packed(target)
        return self.gradient if target == "total" else self.gradient - integrals.classical_gradient(self.coefficients)


def _require_packed(target: str) -> None:
    if target not in ("TsExc", "total"):
        raise InvalidInput(f"packed labels are of TsExc and of the total energy; {target} needs `molkit labels`")


def thinned(entry: LabelledMolecule, samples: int) -> LabelledMolecule:
    """The ground state and `samples - 1` others below CEILING, evenly spread over the order of their energies."""
    excess, ground = excess_energies(entry), entry.ground_state
    others = [row for row in np.argsort(excess, kind="stable") if row != ground and excess[row] <= CEILING]
    count = min(samples - 1, len(others))
    chosen = [others[int((place + 0.5) * len(others) / count)] for place in range(count)]
    return replace(entry, labels=entry.labels.select(np.array(sorted([ground, *chosen]))))


def write_pack(path: Path, entries: Sequence[LabelledMolecule], *, name: str, split: str, samples: int) -> None:
    """Write at most `samples` samples of every labelled molecule of a class and split.

    Raises InvalidInput for fewer samples than one or no molecule, and where the file cannot be written.
    """
    if samples < 1 or not entries:
        raise InvalidInput(f"a packed set needs molecules and a sample of each, got {len(entries)} and {samples}")
    kept = [thinned(entry, samples) for entry in entries]
    about = {"class_name": name, "split": split, "basis": basis_fingerprint()}
    arrays = {key: np.array(value) for key, value in about.items()}
    write_arrays(Path(path), arrays | _molecule_arrays(kept) | _label_arrays(kept))


def _molecule_arrays(entries: Sequence[LabelledMolecule]) -> dict[str, np.ndarray]:
    molecules = [entry.molecule for entry in entries]
    return {
        "names": np.array([molecule.name for molecule in molecules]),
        "num_atoms": np.array([molecule.num_atoms for molecule in molecules], dtype=np.uint8),
        "atomic_numbers": np.concatenate([molecule.atomic_numbers for molecule in molecules]).astype(np.uint8),
        "positions": np.concatenate([molecule.positions for molecule in molecules]),
        "nuclear": np.array([entry.nuclear for entry in entries]),
    }


def _label_arrays(entries: Sequence[LabelledMolecule]) -> dict[str, np.ndarray]:
    labels = [entry.labels for entry in entries]
    ground = [part.coefficients[entry.ground_state].astype(np.float32) for entry, part in _pairs(entries)]
    slopes = [part.target_gradient("total", density_integrals(entry.molecule)) for entry, part in _pairs(entries)]
    moved = [
        np.delete(entry.labels.coefficients, entry.ground_state, 0) - row
        for entry, row in zip(entries, ground, strict=True)
    ]
    guess = [entry.guess[None] - row for entry, row in zip(entries, ground, strict=True)]
    return {
        "num_functions": np.array([len(row) for row in ground], dtype=np.int32),
        "num_samples": np.array([len(part) for part in labels], dtype=np.int32),
        "electronic": np.concatenate([part.electronic for part in labels]),
        "source": np.concatenate([part.source for part in labels]).astype(np.int8),
        "ground": np.concatenate(ground),
        **_halved("guess", guess),
        **_halved("moved", moved),
        **_halved("slopes", slopes),
    }


def _pairs(entries: Sequence[LabelledMolecule]) -> list[tuple[LabelledMolecule, Labels]]:
    return [(entry, entry.labels) for entry in entries]


def _halved(key: str, blocks: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of blocks [S, M] in half precision, each divided by its largest value, and those values."""
    scales = [np.maximum(np.abs(block).max(1), SMALLEST).astype(np.float32) for block in blocks]
    rows = [(block / scale[:, None]).astype(np.float16) for block, scale in zip(blocks, scales, strict=True)]
    return {key: np.concatenate([row.reshape(-1) for row in rows]), f"{key}_scale": np.concatenate(scales)}


def read_pack(path: Path, *, limit: int | None = None) -> tuple[str, str, list[LabelledMolecule]]:
    """Class, split and labelled molecules of a packed set, by number.

    Raises DataNotFound, or InvalidInput for a file that is none, is damaged, or was made with another density basis.
    """
    arrays = load_arrays(Path(path))
    missing = sorted(set(KEYS) - set(arrays))
    if missing:
        raise InvalidInput(f"{path}: not a packed set of density labels ({missing[0]} is missing)")
    require_basis(str(arrays["basis"]), label=str(path))
    try:
        found = _entries(arrays)
    except (ValueError, IndexError, TypeError) as error:
        raise InvalidInput(f"{path}: its arrays do not belong together ({error})") from error
    return str(arrays["class_name"]), str(arrays["split"]), found[:limit]


def _entries(arrays: Mapping[str, np.ndarray]) -> list[LabelledMolecule]:
    sizes, atoms = arrays["num_functions"].astype(int), arrays["num_atoms"].astype(int)
    counts = arrays["num_samples"].astype(int)
    ground = _parts(arrays["ground"].astype(float), sizes)
    rows = {"guess": np.ones_like(sizes), "moved": counts - 1, "slopes": counts}
    guess, moved, slopes = (_whole(arrays, key, sizes, rows[key]) for key in HALVED)
    numbers, positions = _parts(arrays["atomic_numbers"].astype(int), atoms), _parts(arrays["positions"], atoms)
    energies, sources = _parts(arrays["electronic"], counts), _parts(arrays["source"], counts)
    return [
        LabelledMolecule(
            Molecule(numbers[k], positions[k], name=str(arrays["names"][k])),
            _labels(ground[k], moved[k], slopes[k], energies[k], sources[k]),
            ground[k] + guess[k][0],
            float(arrays["nuclear"][k]),
        )
        for k in range(len(sizes))
    ]


def _parts(values: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """Consecutive parts of so many rows. Raises ValueError where they are not all there."""
    if len(values) != sizes.sum():
        raise ValueError(f"{len(values)} rows in place of {sizes.sum()}")
    return np.split(values, np.cumsum(sizes)[:-1])


def _whole(arrays: Mapping[str, np.ndarray], key: str, sizes: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Blocks [S, M] in double precision."""
    scales = _parts(arrays[f"{key}_scale"].astype(float), counts)
    flat = _parts(arrays[key].astype(float), sizes * counts)
    shaped = (part.reshape(len(scale), size) for part, scale, size in zip(flat, scales, sizes, strict=True))
    return [part * scale[:, None] for part, scale in zip(shaped, scales, strict=True)]


def _labels(
    ground: np.ndarray, moved: np.ndarray, slopes: np.ndarray, electronic: np.ndarray, source: np.ndarray
) -> PackedLabels:
    coefficients = ground + np.insert(moved, np.flatnonzero(source == 0)[-1], 0.0, axis=0)
    unknown, unknown_rows = np.full(len(electronic), np.nan), np.full(coefficients.shape, np.nan)
    return PackedLabels(
        coefficients=coefficients,
        electronic=electronic,
        kinetic=unknown,
        exchange_correlation=unknown,
        apbe=unknown,
        gradient=slopes,
        exchange_correlation_gradient=unknown_rows,
        apbe_gradient=unknown_rows,
        source=source,
    )


def load_labels(place: Path, name: str, split: str, *, limit: int | None = None) -> list[LabelledMolecule]:
    """Labelled geometries of a class and split, by number, from a folder of `molkit labels` or a packed set (.npz).

    Raises what `load_folder` and `read_pack` raise, and InvalidInput for a packed set of another class or split.
    """
    if Path(place).suffix != ".npz":
        return load_folder(place, name, split, limit=limit)
    held_name, held_split, found = read_pack(place, limit=limit)
    if (held_name, held_split) != (name, split):
        raise InvalidInput(f"{place}: holds labels of {held_name}, split {held_split}; asked for {name}, {split}")
    return found
