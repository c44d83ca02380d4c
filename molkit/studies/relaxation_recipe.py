"""What brings a relaxed structure closer to the minimum, without and with another training, and what it costs."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import process_time

import numpy as np
import torch

from molkit.chem.optimise import optimise
from molkit.chem.xtb import XtbEnergy
from molkit.claims.ledger import REPOSITORY
from molkit.claims.provenance import commit, machine
from molkit.config import stored_json
from molkit.data.qm9 import load_qm9
from molkit.edm.model import Edm, load
from molkit.edm.samplers import SAMPLERS
from molkit.errors import CalculationFailed
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.molecule import Molecule
from molkit.relaxation.recipe import finer, pre_relax
from molkit.relaxation.starts import REFERENCE, Starts, classical_starts, with_xtb
from molkit.rng import generator_from
from molkit.training.files import write_text
from molkit.units import EV_TO_KCAL

STORED = REPOSITORY / "data" / "studies" / "relaxation_recipe.json"


@dataclass(frozen=True)
class Variant:
    """A way to use the model; `sigma` in angstrom or "auto"."""

    sigma: float | str
    ending: str = "mean"
    copies: int = 1
    sampler: str = "ancestral"
    finer: int = 1  # times as many steps between the same noise levels

    @property
    def label(self) -> str:
        """The variant in words."""
        level = "auto" if self.sigma == "auto" else f"{self.sigma:.3f} Å"
        path = "" if self.sampler == "ancestral" else f", {self.sampler}"
        path += f", {self.finer} x finer steps" if self.finer > 1 else ""
        many = f", mean of {self.copies} chains" if self.copies > 1 else ""
        return f"{level}, {self.ending}{path}{many}"


VARIANTS = (
    Variant(0.0285, "sample"),
    Variant(0.0145),
    Variant(0.0285),
    Variant(0.0425),
    Variant(0.0707),
    Variant("auto"),
    Variant(0.0285, sampler="ddim"),
    Variant(0.0285, finer=8),
    Variant(0.0707, finer=8),
    Variant(0.0285, copies=8),
    Variant(0.0707, copies=8),
    Variant("auto", copies=8),
)


@dataclass(frozen=True)
class VariantResult:
    """Energies of the structures of one variant above the minimum next to MMFF94's, kcal/mol, by molecule."""

    weights: str
    label: str
    excesses: tuple[float, ...]
    num_failed: int

    def mean(self) -> Interval:
        """Mean with a bootstrap interval."""
        return bootstrap_interval(np.array(self.excesses))

    def median(self) -> Interval:
        """Median with a bootstrap interval."""
        return bootstrap_interval(np.array(self.excesses), statistic=np.median)


@dataclass(frozen=True, eq=False)
class _Known:
    """A molecule at MMFF94's structure and the energy (eV) of the GFN2-xTB minimum next to it."""

    starts: Starts
    given: Molecule
    lowest: float


def _known_minima(num_molecules: int) -> list[_Known]:
    """Validation molecules that can be embedded and relaxed."""
    found = []
    for molecule in load_qm9(split="valid", limit=num_molecules):
        starts = with_xtb(classical_starts(molecule), "gfn1", "GFN1-xTB")
        if REFERENCE not in starts.places:
            continue
        given = starts.start(REFERENCE)
        try:
            ended = optimise(given, XtbEnergy(given), optimiser="internal")
        except CalculationFailed:
            continue
        if ended.converged:
            found.append(_Known(starts, given, ended.energy_after))
    return found


def _scored(weights: str, label: str, known: Sequence[_Known], made: Sequence[Molecule | None]) -> VariantResult:
    excesses, failed = [], 0
    for one, molecule in zip(known, made, strict=True):
        try:
            if molecule is None:
                raise CalculationFailed("no structure")
            excesses.append((XtbEnergy(one.given)(molecule.positions).energy - one.lowest) * EV_TO_KCAL)
        except CalculationFailed:
            failed += 1
    return VariantResult(weights, label, tuple(round(value, 4) for value in excesses), failed)


def variants(weights: Sequence[str], *, num_molecules: int, seed: int) -> list[VariantResult]:
    """All variants for all weights on the same validation molecules, beside MMFF94 and GFN1-xTB."""
    torch.set_num_threads(1)
    known = _known_minima(num_molecules)
    made = [_scored("", "MMFF94", known, [one.given for one in known])]
    semi = [one.starts.start("gfn1") if "gfn1" in one.starts.places else None for one in known]
    made.append(_scored("", "GFN1-xTB", known, semi))
    for name in weights:
        edm = load(name)
        made += [_scored(edm.name, one.label, known, _apply(edm, one, known, seed)) for one in VARIANTS]
    return made


def _apply(edm: Edm, one: Variant, known: Sequence[_Known], seed: int) -> Sequence[Molecule | None]:
    options = {"sigma": one.sigma, "ending": one.ending, "copies": one.copies, "sampler": SAMPLERS[one.sampler]}
    generator = generator_from("recipe", seed, one.label)
    return pre_relax(finer(edm, one.finer), [entry.given for entry in known], **options, generator=generator).molecules


def write_variants(made: Sequence[VariantResult], path: Path, *, seed: int) -> None:
    """Keep the results as JSON. Raises RunError when the disk refuses."""
    head, dirty = commit()
    stamp = {"commit": head, "dirty": dirty, "machine": machine(), "seed": seed}
    write_text(path, json.dumps({"stamp": stamp, "results": [asdict(one) for one in made]}, indent=0) + "\n")


def stored_variants(path: Path = STORED) -> list[VariantResult]:
    """What `molkit study relaxation-recipe` wrote. Raises DataNotFound or InvalidInput."""
    with stored_json(path, "the variants of the recipe", f"molkit study relaxation-recipe --out {path}") as stored:
        entries = stored["results"]
        return [VariantResult(**{**one, "excesses": tuple(one["excesses"])}) for one in entries]


@dataclass(frozen=True)
class Cost:
    """Mean CPU seconds of a molecule for one way to a better structure, from MMFF94's on."""

    label: str
    seconds: float
    num: int


def costs(weights: str, *, count: int, seed: int) -> list[Cost]:
    """Embedding with MMFF94, the model in one batch, and xTB relaxations, on the same test molecules and one core."""
    torch.set_num_threads(1)
    edm = load(weights)
    pre_relax(edm, [_water()], generator=generator_from("warm"))  # the kernel is built and loaded before the clock runs
    began = process_time()
    starts = [classical_starts(molecule) for molecule in load_qm9(split="test", limit=count)]
    embedding = (process_time() - began) / count
    given = [one.start(REFERENCE) for one in starts if REFERENCE in one.places]
    made = [Cost("ETKDG, UFF, MMFF94 and MMFF94s", embedding, count)]
    began = process_time()
    pre_relax(edm, given, generator=generator_from("costs", seed))
    made.append(Cost("diffusion, 0.029 Å, mean", (process_time() - began) / len(given), len(given)))
    for method in ("GFN1-xTB", "GFN2-xTB"):
        began = process_time()
        for one in given:
            optimise(one, XtbEnergy(one, method=method), optimiser="internal")
        made.append(Cost(f"{method} relaxation", (process_time() - began) / len(given), len(given)))
    return made


def _water() -> Molecule:
    return Molecule([8, 1, 1], [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
