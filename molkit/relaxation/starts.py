"""Starting structures of one conformer: embedding, force fields, GFN1-xTB, diffusion at several levels and endings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import process_time

import numpy as np

from molkit.chem.optimise import optimise
from molkit.chem.rdkit_conformers import embed_like, force_field_minimum
from molkit.chem.xtb import Method, XtbEnergy
from molkit.errors import CalculationFailed
from molkit.molecule import Molecule
from molkit.relaxation.chains import Ending, relax_from
from molkit.relaxation.denoisers import Denoiser
from molkit.rng import generator_from

FORCE_FIELDS = ("uff", "mmff94", "mmff94s")
LEVELS = (0.0285, 0.0425, 0.0707)  # angstrom; steps 20, 30 and 50 of 1,000 in the schedule of the paper
ENDINGS: tuple[Ending, ...] = ("sample", "mean")
REFERENCE = "mmff94"  # the start that all others are compared with, and from which diffusion and xTB begin


@dataclass(frozen=True, eq=False)
class Starts:
    """Structures of one molecule by name, the CPU seconds that each took in all, and why others are missing."""

    molecule: Molecule  # the geometry of the data set
    places: Mapping[str, np.ndarray]  # name -> [A, 3] angstrom
    seconds: Mapping[str, float]
    failures: Mapping[str, str] = field(default_factory=dict)

    def start(self, name: str) -> Molecule:
        """The molecule at one of its starts."""
        return self.molecule.with_positions(self.places[name])

    def having(self, name: str, positions: np.ndarray, seconds: float) -> "Starts":
        """The same with one more start."""
        return Starts(
            self.molecule, {**self.places, name: positions}, {**self.seconds, name: seconds}, dict(self.failures)
        )

    def lacking(self, name: str, reason: str) -> "Starts":
        """The same with one more failure."""
        return Starts(self.molecule, self.places, self.seconds, {**self.failures, name: reason})


def classical_starts(molecule: Molecule) -> Starts:
    """The data set's geometry, a fresh conformer, and its minima on three force fields."""
    found = Starts(molecule, {"dataset": molecule.positions}, {"dataset": 0.0})
    began = process_time()
    try:
        embedded = embed_like(molecule)
    except CalculationFailed as error:
        return _all_lacking(found, ("etkdg", *FORCE_FIELDS), str(error))
    spent = process_time() - began
    found = found.having("etkdg", embedded.molecule.positions, spent)
    for name in FORCE_FIELDS:
        found = _with(found, name, spent, lambda name=name: force_field_minimum(embedded, name).positions)
    return found


def with_xtb(found: Starts, name: str, method: Method) -> Starts:
    """One more start: the minimum of a GFN method next to MMFF94's, by internal coordinates."""
    if REFERENCE not in found.places:
        return found.lacking(name, f"no {REFERENCE} structure to begin with")
    given = found.start(REFERENCE)

    def minimum() -> np.ndarray:
        ended = optimise(given, XtbEnergy(given, method=method), optimiser="internal")
        if not ended.converged:
            raise CalculationFailed(f"{method}: not converged")
        return ended.positions

    return _with(found, name, found.seconds[REFERENCE], minimum)


def edm_name(level: float, ending: Ending) -> str:
    """Name of a diffusion start, such as `edm 0.071 mean`."""
    return f"edm {level:.3f} {ending}"


def with_diffusion(
    found: Sequence[Starts],
    denoiser: Denoiser,
    *,
    levels: Sequence[float] = LEVELS,
    endings: Sequence[Ending] = ENDINGS,
    seed: int,
) -> list[Starts]:
    """One more start for each level and ending: MMFF94's structure walked through the chain, all molecules together.

    A molecule's noise is the same for both endings of a level. An element the model cannot place, or a chain that
    leaves the finite numbers, is a failure of that molecule alone.
    """
    found = list(found)
    names = [edm_name(level, ending) for level in levels for ending in endings]
    known = set(denoiser.config.elements)
    usable = []
    for row, one in enumerate(found):
        if REFERENCE not in one.places:
            found[row] = _all_lacking(one, names, f"no {REFERENCE} structure to begin with")
        elif odd := set(one.molecule.atomic_numbers.tolist()) - known:
            found[row] = _all_lacking(one, names, f"the model cannot place Z = {min(odd)}")
        else:
            usable.append(row)
    for level in levels if usable else ():
        for ending in endings:
            generator = generator_from("starts", seed, str(level))
            began = process_time()
            given = [found[row].start(REFERENCE) for row in usable]
            made = relax_from(denoiser, given, sigma=level, ending=ending, generator=generator)
            each = (process_time() - began) / len(usable)
            for row, molecule in zip(usable, made.molecules, strict=True):
                before = found[row].seconds[REFERENCE]
                found[row] = (
                    found[row].lacking(edm_name(level, ending), "the chain did not stay finite")
                    if molecule is None
                    else found[row].having(edm_name(level, ending), molecule.positions, before + each)
                )
    return found


def _with(found: Starts, name: str, before: float, make: Callable[[], np.ndarray]) -> Starts:
    began = process_time()
    try:
        positions = make()
    except CalculationFailed as error:
        return found.lacking(name, str(error))
    return found.having(name, positions, before + process_time() - began)


def _all_lacking(found: Starts, names: Sequence[str], reason: str) -> Starts:
    for name in names:
        found = found.lacking(name, reason)
    return found
