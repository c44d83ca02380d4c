"""Domains of the published density functionals: training geometries, and what held-out molecules say of errors."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from molkit.errors import InvalidInput
from molkit.experiments.run import run
from molkit.molecule import Molecule
from molkit.ofdft.domain import Domain, write_domain
from molkit.ofdft.geometries import QM9_UP_TO_FIVE, geometry, torsion_points
from molkit.studies import ofdft_ethanol, ofdft_water
from molkit.studies.ofdft import several_compositions, unseen_functionals
from molkit.studies.ofdft_water import StartResult
from molkit.training.weights import WEIGHTS_ROOT
from molkit.units import HARTREE_TO_KCAL

START = "MINAO"
SEEDS = {"ofdft_water": 0, "ofdft_small": 1, "ofdft_ethanol": 0}  # of the published training among those of its study
TRANSFER_SHARE = 0.8  # other compositions lie at all distances, the farthest ones alone
HeldOut = tuple[Sequence[Molecule], Sequence[Molecule], np.ndarray]  # training, held out, errors in millihartree


def domain_of(name: str) -> Domain:
    """The domain of published weights. Raises InvalidInput for others, and what the readers of studies raise."""
    share = 1.0
    if name == "ofdft_up_to_five":
        share = TRANSFER_SHARE
        parts = [*_folds("resting"), *_folds("displaced")]
        training = [geometry("up_to_five", "train", number) for number in range(2 * QM9_UP_TO_FIVE)]
    elif name in SEEDS:
        parts = [_unseen(name)]
        training = parts[0][0]
    else:
        raise InvalidInput(f"domains are made for ofdft_up_to_five, {', '.join(SEEDS)}; got {name!r}")
    found = np.concatenate([held_out(*part) for part in parts])
    return Domain(tuple(training), *found[np.isfinite(found).all(1)].T, share=share)


def held_out(training: Sequence[Molecule], unseen: Sequence[Molecule], errors: np.ndarray) -> np.ndarray:
    """Distance, gap (angstrom) and absolute error (kcal/mol) of every unseen molecule, [N, 3]."""
    met = Domain(tuple(training), *np.zeros((3, 0)))
    places = [(met.distance(molecule), met.gap(molecule)[0]) for molecule in unseen]
    return np.column_stack([np.array(places), np.abs(errors) * HARTREE_TO_KCAL / ofdft_water.MILLI])


def _folds(where: str) -> Iterator[HeldOut]:
    """For every fold its training, resting and displaced, and the molecules that it did not meet."""
    rows = run(unseen_functionals.measure, unseen_functionals.tasks(arms=(unseen_functionals.DISPLACED_RESPONSE,)))
    rows = rows[rows["start"] == START]
    for fold in sorted(set(rows["fold"])):
        unseen = rows[(rows["fold"] == fold) & (rows["where"] == where)]
        training = [_named(name) for name in rows.loc[rows["fold"] != fold, "molecule"]]
        yield training, [_named(name) for name in unseen["molecule"]], unseen["after"].to_numpy(float)


def _named(name: str) -> Molecule:
    return geometry("up_to_five", "train", int(name.rpartition("-")[2]))


def _unseen(name: str) -> HeldOut:
    """Training and test geometries of a functional of one class, and the errors of the published training."""
    seed = SEEDS[name]
    if name == "ofdft_water":
        water = ofdft_water.stored_study()
        result, trained = water.of_arm("full")[seed].starts[START], water.num_train
        return _geometries("water", trained), _tests("water", result), np.array(result.after)
    if name == "ofdft_small":
        rows = run(several_compositions.measure, several_compositions.tasks(arms=("full",)))
        rows = rows[(rows["seed"] == seed) & (rows["set"] == "test") & (rows["start"] == START)]
        unseen = [geometry("small", "test", number) for number in range(len(rows))]
        return _geometries("small", several_compositions.NUM_TRAIN), unseen, rows["after"].to_numpy(float)
    ethanol = ofdft_ethanol.stored_study().found
    results = ethanol.of_arm("full")[seed].results
    frames, turned = results["test"][START], results["torsions"][START]
    torsions = [geometry("ethanol_torsions", "test", number) for number in range(1 + len(torsion_points()))]
    unseen = [*_tests("ethanol", frames), *torsions]
    return _geometries("ethanol", ethanol.num_train), unseen, np.array([*frames.after, *turned.after])


def _geometries(kind: str, count: int) -> list[Molecule]:
    return [geometry(kind, "train", number) for number in range(count)]


def _tests(kind: str, result: StartResult) -> list[Molecule]:
    return [geometry(kind, "test", number) for number in range(len(result.after))]


def write_domains(names: Sequence[str] = ("ofdft_up_to_five", *SEEDS), *, root: Path = WEIGHTS_ROOT) -> list[Path]:
    """Write domain.npz beside published weights; returns the paths."""
    return [write_domain(root / name, domain_of(name)) for name in names]
