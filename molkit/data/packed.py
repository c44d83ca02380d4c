"""Many molecules in one small file: centred integer coordinates in a deflated .npz.

Keys: `num_atoms` uint8 or uint16 [B]; `atomic_numbers` uint8 [A]; `position_bytes` uint8 [W, 3, A], the bytes of the
two's-complement coordinates (W = 2 or 4), lowest byte first, one plane per byte and axis because planes deflate better
than triples; `scale_angstrom` float64, the length of one unit; `names` (text) where molecules have names, `charges`
int16 [B] where any is charged, `isotopes` uint16 [A] (mass numbers, 0 for none) where any is labelled. Anything else a
file holds is an extra array of its writer.
"""

import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from molkit.data.registry import load_arrays
from molkit.errors import InvalidInput
from molkit.molecule import SYMBOLS, PackedMolecules

COARSE_ANGSTROM = 2.5e-4  # of int16 coordinates, which then reach 8.19 angstrom from the centre
FINE_ANGSTROM = 1e-5  # of int32 coordinates
KEYS = ("num_atoms", "atomic_numbers", "position_bytes", "scale_angstrom")
EXTRA_KEYS = ("names", "charges", "isotopes")  # where there is something to say


def write_packed(path: Path, molecules: PackedMolecules, **extra_arrays: np.ndarray) -> None:
    """Write molecules, each moved to its centre, with coordinates rounded to 2.5e-4 angstrom if all lie within 8
    angstrom of their centre and to 1e-5 otherwise.

    The same molecules always give the same bytes. The file appears complete or not at all.
    Raises InvalidInput for a key of the format among the extra arrays, or for values that do not fit.
    """
    clash = sorted(set(extra_arrays) & {*KEYS, *EXTRA_KEYS})
    if clash:
        raise InvalidInput(f"the packed format owns the key {clash[0]!r}: choose another name for the extra array")
    write_arrays(path, pack(molecules) | {key: np.asarray(value) for key, value in extra_arrays.items()})


def read_packed(path: Path, *, content: bytes | None = None) -> PackedMolecules:
    """The molecules of a packed file (or of its content); DataNotFound if it is absent, InvalidInput if not one."""
    return unpack(load_arrays(Path(path), content=content), label=str(path))


def pack(molecules: PackedMolecules) -> dict[str, np.ndarray]:
    """The arrays of the packed format, see the head of this file."""
    numbers = np.asarray(molecules.atomic_numbers)
    largest = int(molecules.num_atoms.max(initial=0))
    if largest > np.iinfo(np.uint16).max or (len(numbers) and not 0 < numbers.min() <= numbers.max() < len(SYMBOLS)):
        raise InvalidInput(f"cannot pack molecules of up to {largest} atoms: at most 65,535, of known elements")
    offset = centred_positions(molecules)
    coarse = np.abs(offset).max(initial=0.0) < COARSE_ANGSTROM * np.iinfo(np.int16).max
    scale, kind = (COARSE_ANGSTROM, "<i2") if coarse else (FINE_ANGSTROM, "<i4")
    units = np.rint(offset / scale)
    if not (np.abs(units) <= np.iinfo(kind).max).all():
        raise InvalidInput("cannot pack molecules: a coordinate is not finite or lies over 20,000 angstrom off centre")
    arrays = {
        "num_atoms": molecules.num_atoms.astype(np.uint8 if largest < 256 else np.uint16),
        "atomic_numbers": numbers.astype(np.uint8),
        "position_bytes": _to_planes(units.astype(kind)),
        "scale_angstrom": np.float64(scale),
    }
    if molecules.names:
        arrays["names"] = np.array(molecules.names)
    if molecules.charges is not None:
        arrays["charges"] = molecules.charges.astype(np.int16)
    if molecules.isotopes is not None:
        arrays["isotopes"] = molecules.isotopes.astype(np.uint16)
    return arrays


def unpack(arrays: Mapping[str, np.ndarray], *, label: str = "packed molecules") -> PackedMolecules:
    """The molecules in arrays of the packed format; `label` names them in the message of an InvalidInput."""
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise InvalidInput(f"{label}: expected packed molecules with the key {missing[0]!r}, got {sorted(arrays)}")
    num_atoms = arrays["num_atoms"].astype(np.int64)
    numbers = arrays["atomic_numbers"].astype(np.int64)
    planes, scale = arrays["position_bytes"], arrays["scale_angstrom"]
    total = int(num_atoms.sum())
    if planes.dtype != np.uint8 or planes.shape not in ((2, 3, total), (4, 3, total)) or numbers.shape != (total,):
        raise InvalidInput(
            f"{label}: {total} atoms announced, got {numbers.shape[0]} elements and planes of shape {planes.shape}"
        )
    if scale.shape != () or not 0 < scale < 1 or (num_atoms < 1).any():
        raise InvalidInput(f"{label}: expected a scale between 0 and 1 angstrom and molecules that have atoms")
    if total and not 0 < numbers.min() <= numbers.max() < len(SYMBOLS):
        raise InvalidInput(f"{label}: atomic numbers must lie in 1..{len(SYMBOLS) - 1}")
    names = tuple(arrays["names"].tolist()) if "names" in arrays else ()
    charges, isotopes = (arrays[key].astype(np.int64) if key in arrays else None for key in ("charges", "isotopes"))
    if (charges is not None and charges.shape != num_atoms.shape) or (
        isotopes is not None and isotopes.shape != numbers.shape
    ):
        raise InvalidInput(f"{label}: expected a charge for each molecule and an isotope for each atom")
    return PackedMolecules(num_atoms, numbers, _from_planes(planes) * float(scale), names, charges, isotopes)


def centred_positions(molecules: PackedMolecules) -> np.ndarray:
    """Positions [A, 3] with the plain mean of each molecule's atoms moved to the origin, angstrom."""
    if len(molecules) == 0:
        return molecules.positions
    sums = np.add.reduceat(molecules.positions, molecules.ptr[:-1], axis=0)
    return molecules.positions - np.repeat(sums / molecules.num_atoms[:, None], molecules.num_atoms, axis=0)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], *, level: int = 9) -> None:
    """A deflated .npz with fixed time stamps, so that equal arrays give equal bytes; written aside, then renamed.

    `level` 1 is some ten times faster than 9 and the file a little larger: for big sets that are made by their user.
    Raises InvalidInput where the file cannot be written; what stood there stays.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".writing")
    try:
        with zipfile.ZipFile(partial, "w") as archive:
            for key, value in arrays.items():
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, np.asanyarray(value), allow_pickle=False)
                entry = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                archive.writestr(entry, buffer.getvalue(), compress_type=zipfile.ZIP_DEFLATED, compresslevel=level)
        os.replace(partial, path)
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}; choose a folder that exists and has room") from None
    finally:
        partial.unlink(missing_ok=True)


def _to_planes(units: np.ndarray) -> np.ndarray:
    """Integers [A, 3] -> their bytes, uint8 [W, 3, A], lowest byte first."""
    width = units.dtype.itemsize
    return np.ascontiguousarray(np.ascontiguousarray(units).view(np.uint8).reshape(-1, 3, width).transpose(2, 1, 0))


def _from_planes(planes: np.ndarray) -> np.ndarray:
    """Bytes uint8 [W, 3, A] -> integers [A, 3] (int16 or int32)."""
    width = planes.shape[0]
    return np.ascontiguousarray(planes.transpose(2, 1, 0)).view(f"<i{width}")[..., 0]
