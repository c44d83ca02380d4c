"""Folds by composition, and how strongly compositions left out of a fit ask it to be restrained."""

from collections.abc import Iterator, Sequence

import numpy as np

from molkit.errors import InvalidInput
from molkit.ofdft.channels import ELEMENTS, energy_features, ridge_energies, ridge_path
from molkit.ofdft.label_files import LabelledMolecule
from molkit.rng import generator_from

NUM_FOLDS = 5
INNER_FOLDS = 10
RIDGES = tuple(10.0**power for power in range(-6, 7))
SPREADS = (0.1, 0.3, 1.0, 3.0, 10.0)


def folds_by_composition(formulas: Sequence[str], *, count: int = NUM_FOLDS) -> np.ndarray:
    """Fold of every molecule, [N]; molecules of one formula share it.

    Formulas come in random order, each into the fold with the fewest molecules so far. Raises InvalidInput for fewer
    formulas than folds.
    """
    known = sorted(set(formulas))
    if not 2 <= count <= len(known):
        raise InvalidInput(f"need at least two folds and no more than formulas ({len(known)}), got {count}")
    order = np.random.default_rng(generator_from("folds by composition", count).initial_seed()).permutation(len(known))
    sizes, found = np.zeros(count, dtype=int), {}
    for number in order:
        fold = int(np.argmin(sizes))
        found[known[number]] = fold
        sizes[fold] += list(formulas).count(known[number])
    return np.array([found[formula] for formula in formulas])


def without_fold(labelled: Sequence[LabelledMolecule], held_out: int) -> list[LabelledMolecule]:
    """The molecules that are not in a fold; -1 holds none out. Raises InvalidInput for a fold that is none."""
    if held_out == -1:
        return list(labelled)
    return [entry for entry, fold in _with_fold(labelled, held_out) if fold != held_out]


def of_fold(labelled: Sequence[LabelledMolecule], fold: int) -> list[LabelledMolecule]:
    """The molecules of a fold. Raises InvalidInput for a fold that is none."""
    return [entry for entry, found in _with_fold(labelled, fold) if found == fold]


def _with_fold(labelled: Sequence[LabelledMolecule], fold: int) -> list[tuple[LabelledMolecule, int]]:
    if not 0 <= fold < NUM_FOLDS:
        raise InvalidInput(f"folds are numbered 0 to {NUM_FOLDS - 1}, got {fold}")
    found = folds_by_composition([entry.molecule.formula for entry in labelled])
    return list(zip(labelled, found.tolist(), strict=True))


def inner_parts(features: np.ndarray, formulas: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Masks [N] of the molecules of a fit and of those it is asked for, over INNER_FOLDS parts by composition.

    Compositions leave one by one where they are fewer. Molecules with an element that none of the fit has are asked
    for nowhere, as nothing could know its atoms.
    """
    folds = folds_by_composition(formulas, count=min(INNER_FOLDS, len(set(formulas))))
    has = features[:, : len(ELEMENTS)] > 0.0
    for fold in range(folds.max() + 1):
        kept = folds != fold
        yield kept, (folds == fold) & (has.any(1) & ~(has & ~has[kept].any(0)).any(1))


def held_out_errors(
    features: np.ndarray,
    energies: np.ndarray,
    formulas: Sequence[str],
    ridges: Sequence[float],
    *,
    prior: np.ndarray | None = None,
    spread: float = 0.0,
) -> dict[float, float]:
    """Mean absolute error (hartree) of `ridge_energies` on compositions it was not fitted to, by ridge.

    features [N, ENERGY_FEATURES], energies [N]; left out are those of `inner_parts`. Raises InvalidInput where none is.
    """
    errors: dict[float, list[np.ndarray]] = {ridge: [] for ridge in ridges}
    for kept, left in inner_parts(features, formulas):
        path = ridge_path(features[kept], energies[kept], ridges, prior, spread=spread)
        for ridge, weights in zip(ridges, path, strict=True):
            errors[ridge].append(np.abs(features[left] @ weights - energies[left]))
    if not sum(map(len, errors[ridges[0]])):
        raise InvalidInput("no composition can be held out: each has an element to itself")
    return {ridge: float(np.concatenate(found).mean()) for ridge, found in errors.items()}


def chosen_restraint(
    features: np.ndarray,
    energies: np.ndarray,
    formulas: Sequence[str],
    *,
    prior: np.ndarray | None = None,
    spreads: Sequence[float] = SPREADS,
) -> tuple[float, float]:
    """The pair of RIDGES and spreads with the least of `held_out_errors`."""
    found = {
        (ridge, spread): error
        for spread in spreads
        for ridge, error in held_out_errors(features, energies, formulas, RIDGES, prior=prior, spread=spread).items()
    }
    return min(found, key=lambda pair: found[pair])


def careful_energies(labelled: Sequence[LabelledMolecule]) -> np.ndarray:
    """Weights [ENERGY_FEATURES] of a reference energy whose restraint and spread compositions left out have chosen."""
    features = np.stack([energy_features(entry.molecule) for entry in labelled])
    energies, formulas = np.array([entry.energy for entry in labelled]), [entry.molecule.formula for entry in labelled]
    ridge, spread = chosen_restraint(features, energies, formulas)
    return ridge_energies(features, energies, ridge, spread=spread)
