"""Molecular-dynamics frames with DFT energies and forces: revised MD17, and two flexible molecules.

Sources: rMD17, Christensen and von Lilienfeld, arXiv:2007.09593 (PBE/def2-SVP; train on at most 1,000 frames of one
molecule, its authors ask); acetylacetone and 3BPA, Kovacs and co-workers, arXiv:2205.06643.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from molkit.data.registry import load_arrays, read_npz
from molkit.errors import DataNotFound, InvalidInput
from molkit.molecule import Molecule, PackedMolecules

RMD17_NAMES = (
    *("ethanol", "malonaldehyde", "uracil", "benzene", "toluene", "salicylic", "naphthalene", "paracetamol"),
    *("aspirin", "azobenzene"),
)
RMD17_AT_HAND = ("ethanol",)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Frames of one molecule with their energies and, where known, forces; `energy_unit` says in which unit."""

    name: str
    atomic_numbers: np.ndarray  # [A] int64
    positions: np.ndarray  # [N, A, 3] float64, angstrom
    energies: np.ndarray  # [N] float64, total energies
    forces: np.ndarray | None  # [N, A, 3] float64, energy_unit / angstrom
    energy_unit: Literal["kcal/mol", "eV"]

    def __len__(self) -> int:
        return len(self.energies)

    def molecule(self, frame: int) -> Molecule:
        """One frame as a molecule."""
        return Molecule(self.atomic_numbers, self.positions[frame], name=f"{self.name}_{frame}")

    def molecules(self) -> PackedMolecules:
        """All frames back to back."""
        num_frames, num_atoms = self.positions.shape[:2]
        return PackedMolecules(
            np.full(num_frames, num_atoms), np.tile(self.atomic_numbers, num_frames), self.positions.reshape(-1, 3)
        )

    def select(self, frames: np.ndarray) -> "Trajectory":
        """The given frames, in that order."""
        forces = None if self.forces is None else self.forces[frames]
        return Trajectory(
            self.name, self.atomic_numbers, self.positions[frames], self.energies[frames], forces, self.energy_unit
        )


def load_rmd17(
    name: str,
    *,
    split: Literal["train", "test", "all"] = "all",
    root: Path | None = None,
    release: Path | None = None,
) -> Trajectory:
    """Frames of one revised-MD17 molecule, kcal/mol: half of the published split 01 (1,000 frames) or all at hand.

    Ethanol comes with the repository (the 2,000 frames of split 01). `release` is the unpacked archive of the authors
    (the folder with `npz_data` and `splits`), which holds all ten molecules. Raises InvalidInput for an unknown name
    or split, or a molecule that only the release has, and DataNotFound where a file of it is missing.
    """
    _check(name, RMD17_NAMES, "rMD17 molecule")
    _check(split, ("train", "test", "all"), "split")
    if release is not None:
        return _release_trajectory(Path(release), name, split)
    if name not in RMD17_AT_HAND:
        raise InvalidInput(
            f"{name} of rMD17 does not come with molkit (only {', '.join(RMD17_AT_HAND)}): unpack the authors' archive "
            "(arXiv:2007.09593) and give its folder as release="
        )
    arrays = read_npz("rmd17.npz", root=root)
    frames = _trajectory(arrays, name, "kcal/mol")
    return frames if split == "all" else frames.select(arrays[f"{name}_{split}01"])


def _release_trajectory(folder: Path, name: str, split: str) -> Trajectory:
    """One molecule of the authors' archive; a split is a CSV file of frame numbers, counted from 0."""
    arrays = load_arrays(folder / "npz_data" / f"rmd17_{name}.npz")
    frames = Trajectory(
        name=name,
        atomic_numbers=_release_array(arrays, "nuclear_charges", name).astype(np.int64),
        positions=_release_array(arrays, "coords", name),
        energies=_release_array(arrays, "energies", name),
        forces=_release_array(arrays, "forces", name),
        energy_unit="kcal/mol",
    )
    return frames if split == "all" else frames.select(_split_rows(folder / "splits" / f"index_{split}_01.csv", frames))


def _release_array(arrays: dict[str, np.ndarray], key: str, name: str) -> np.ndarray:
    if key not in arrays:
        raise InvalidInput(f"rmd17_{name}.npz has no array {key!r}: is this the authors' archive?")
    return arrays[key].astype(np.float64)


def _split_rows(path: Path, frames: Trajectory) -> np.ndarray:
    """Frame numbers of one published split."""
    if not path.is_file():
        raise DataNotFound(f"no split of rMD17 at {path}")
    try:
        rows = np.loadtxt(path, dtype=np.int64, ndmin=1)
    except ValueError as error:
        raise InvalidInput(f"{path}: expected one frame number a line ({error})") from None
    if len(rows) and (rows.min() < 0 or rows.max() >= len(frames)):
        raise InvalidInput(f"{path}: frame {rows.max()} does not exist, {frames.name} has {len(frames)}")
    return rows


def _trajectory(arrays: dict[str, np.ndarray], name: str, energy_unit: Literal["kcal/mol", "eV"]) -> Trajectory:
    """The arrays that begin with `name`, widened to float64."""
    forces = arrays.get(f"{name}_forces")
    return Trajectory(
        name=name,
        atomic_numbers=arrays[f"{name}_numbers"].astype(np.int64),
        positions=arrays[f"{name}_positions"].astype(np.float64),
        energies=arrays[f"{name}_energy"].astype(np.float64),
        forces=None if forces is None else forces.astype(np.float64),
        energy_unit=energy_unit,
    )


def _check(value: str, allowed: tuple[str, ...], what: str) -> None:
    if value not in allowed:
        raise InvalidInput(f"unknown {what} {value!r}: expected one of {', '.join(allowed)}")
