"""Domains of the published density functionals: training geometries, and what held-out molecules say of errors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from molkit.errors import InvalidInput
from molkit.experiments.run import run
from molkit.molecule import Molecule
from molkit.ofdft.domain import Domain, write_domain
from molkit.ofdft.geometries import QM9_UP_TO_FIVE, geometry
from molkit.studies.ofdft import ethanol, learned_functional, several_compositions, unseen_functionals
from molkit.training.weights import WEIGHTS_ROOT
from molkit.units import HARTREE_TO_KCAL

START, MILLI = "MINAO", 1e3
TRANSFER_SHARE = 0.8  # other compositions lie at all distances, the farthest ones alone
HeldOut = tuple[Sequence[Molecule], Sequence[Molecule], np.ndarray]  # training, held out, errors in millihartree
# For weights of one class: its page, that class, and the number of the published training among those of the page.
PAGES = {
    "ofdft_water": (learned_functional, "water", 0),
    "ofdft_small": (several_compositions, "small", 1),
    "ofdft_ethanol": (ethanol, "ethanol", 0),
}


def domain_of(name: str) -> Domain:
    """The domain of published weights. Raises InvalidInput for others, and what `run` raises."""
    share = 1.0
    if name == "ofdft_up_to_five":
        share, parts = TRANSFER_SHARE, folds()
        training: Sequence[Molecule] = [geometry("up_to_five", "train", number) for number in range(2 * QM9_UP_TO_FIVE)]
    elif name in PAGES:
        parts = [of_class(name)]
        training = parts[0][0]
    else:
        raise InvalidInput(f"domains are made for ofdft_up_to_five, {', '.join(PAGES)}; got {name!r}")
    found = np.concatenate([held_out(*part) for part in parts])
    return Domain(tuple(training), *found[np.isfinite(found).all(1)].T, share=share)


def held_out(training: Sequence[Molecule], unseen: Sequence[Molecule], errors: np.ndarray) -> np.ndarray:
    """Distance, gap (angstrom) and absolute error (kcal/mol) of every unseen molecule, [N, 3]."""
    met = Domain(tuple(training), *np.zeros((3, 0)))
    places = [(met.distance(molecule), met.gap(molecule)[0]) for molecule in unseen]
    return np.column_stack([np.array(places), np.abs(errors) * HARTREE_TO_KCAL / MILLI])


def folds() -> list[HeldOut]:
    """For every fold its training, resting and displaced, and the molecules that it did not meet, at rest and not."""
    page, found = unseen_functionals, []
    rows = run(page.measure, page.tasks(arms=(page.DISPLACED_RESPONSE,)))
    rows = rows[rows["start"] == START]
    for where in ("resting", "displaced"):
        for fold in sorted(set(rows["fold"])):
            unseen = rows[(rows["fold"] == fold) & (rows["where"] == where)]
            training = [_named("up_to_five", name) for name in rows.loc[rows["fold"] != fold, "molecule"]]
            unseen_molecules = [_named("up_to_five", name) for name in unseen["molecule"]]
            found.append((training, unseen_molecules, unseen["after"].to_numpy(float)))
    return found


def of_class(name: str) -> HeldOut:
    """Training and test geometries of a functional of one class, and the errors of the published training."""
    page, kind, seed = PAGES[name]
    rows = run(page.measure, page.tasks(arms=("full",)))
    rows = rows[(rows["seed"] == seed) & (rows["start"] == START)]
    names = [(kind, "test", number) for number in range(sum(_of(rows, "test")))]
    errors = [rows.loc[_of(rows, "test"), "after"]]
    if "torsions" in set(rows.get("set", ())):
        errors.append(rows.loc[_of(rows, "torsions"), "after"])
        names += [("ethanol_torsions", "test", number) for number in range(len(errors[-1]))]
    training = [geometry(kind, "train", number) for number in range(page.NUM_TRAIN)]
    return training, [geometry(*place) for place in names], pd.concat(errors).to_numpy(float)


def _of(rows: pd.DataFrame, name: str) -> pd.Series:
    """Which rows are of a set; the page on water has no other."""
    return rows["set"] == name if "set" in rows else rows["after"].notna()


def _named(kind: str, name: str) -> Molecule:
    return geometry(kind, "train", int(name.rpartition("-")[2]))


NAMES = ("ofdft_up_to_five", *PAGES)


def write_domains(names: Sequence[str] = NAMES, *, root: Path = WEIGHTS_ROOT) -> list[Path]:
    """Write domain.npz beside published weights; returns the paths."""
    return [write_domain(root / name, domain_of(name)) for name in names]
