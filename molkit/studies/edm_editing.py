"""Editing measured: completions with a known answer, variation by noise level, a composition against waiting for it."""

from dataclasses import dataclass
from time import perf_counter

import numpy as np

from molkit.chem.bond_orders import allowed_valences, packed_valences
from molkit.chem.composition import parse_formula
from molkit.chem.rdkit_tools import smiles_by_distance
from molkit.data.qm9 import load_qm9, load_reference_smiles
from molkit.edm.editing import Edits, complete, vary, with_composition
from molkit.edm.model import build, load
from molkit.edm.published import stored_samples, training_facts
from molkit.geometry import aligned_rmsd
from molkit.metrics.stability import stability
from molkit.metrics.statistics import Interval, bootstrap_interval, proportion_interval
from molkit.molecule import Molecule, PackedMolecules
from molkit.rng import generator_from

COMPLETION_ARMS = {  # guidance, passes of every stretch
    "replacement": (0.0, 1),
    "replacement, 4 passes": (0.0, 4),
    "guided": (4.0, 1),
    "guided, 4 passes": (4.0, 4),
}
FEWEST = 5  # molecules behind a mean displacement
COMPOSITION_ARMS = {  # elements fixed atom by atom, guidance
    "each atom's element fixed": (True, 0.0),
    "each atom's element fixed, guided": (True, 4.0),
    "numbers of atoms fixed": (False, 0.0),
    "numbers of atoms fixed, guided": (False, 4.0),
}


@dataclass(frozen=True)
class CompletionRow:
    """Completions of the same fragments in one way; failed chains count as failures in every share."""

    label: str
    num: int
    num_calls: int  # network calls of one chain; 0 for the data
    stable: Interval  # molecules stable by EDM's rule
    atoms: float  # share of stable atoms
    fixed: Interval  # molecules whose fixed atoms all carry an allowed valence
    recovered: Interval  # molecules with the SMILES of the one that was cut
    seconds: float


@dataclass(frozen=True)
class Completions:
    """The rows, and for pictures the first whole molecules, their fragments and what the last arm made of them."""

    rows: tuple[CompletionRow, ...]
    whole: tuple[Molecule, ...]
    fragments: tuple[Molecule, ...]
    made: PackedMolecules  # of the last arm
    made_rows: np.ndarray


def cut(molecule: Molecule, *, generator: np.random.Generator) -> Molecule:
    """The molecule without the quarter of its atoms (one at least) that lies farthest in a random direction."""
    along = molecule.centred().positions @ generator.normal(size=3)
    kept = np.sort(np.argsort(along)[: molecule.num_atoms - max(1, molecule.num_atoms // 4)])
    return Molecule(molecule.atomic_numbers[kept], molecule.positions[kept], name=molecule.name)


def completions(weights: str, *, num_molecules: int, num_calls: int, seed: int) -> Completions:
    """Cut a quarter off held-back molecules and complete them with as many atoms, in all ways, beside the data."""
    whole = load_qm9(split="test", limit=num_molecules)
    random = np.random.default_rng(seed)
    fragments = [cut(molecule, generator=random) for molecule in whole]
    num_new = [one.num_atoms - part.num_atoms for one, part in zip(whole, fragments, strict=True)]
    truth = smiles_by_distance(whole)
    edm = load(weights, precision="auto")
    uncut = Edits(whole, np.arange(len(whole)), (), 0)
    rows = [_row("the molecules before the cut", uncut, fragments, truth, 0.0, uncut=True)]
    untrained = build(edm.config, seed=seed)
    for label, (guidance, passes) in {"untrained network": (0.0, 1), **COMPLETION_ARMS}.items():
        started = perf_counter()
        edits = complete(
            untrained if label == "untrained network" else edm,
            fragments,
            num_new=num_new,
            generator=generator_from("complete", seed),
            num_calls=num_calls,
            guidance=guidance,
            resamplings=passes,
        )
        rows.append(_row(label, edits, fragments, truth, perf_counter() - started))
    return Completions(tuple(rows), tuple(whole), tuple(fragments), edits.molecules, edits.rows)


def _row(
    label: str,
    edits: Edits,
    fragments: list[Molecule],
    truth: list[str | None],
    seconds: float,
    *,
    uncut: bool = False,
) -> CompletionRow:
    """Shares over all requests. Of uncut molecules all atoms count as fixed."""
    total = len(fragments)
    if len(edits.molecules) == 0:
        nothing = proportion_interval(0, total)
        return CompletionRow(label, total, edits.num_calls, nothing, 0.0, nothing, nothing, seconds)
    result = stability(edits.molecules)
    smiles = smiles_by_distance(edits.molecules)
    recovered = sum(one is not None and one == truth[row] for one, row in zip(smiles, edits.rows, strict=True))
    fixed = _fixed_satisfied(edits, fragments) if not uncut else int(result.molecule_stable.sum())
    return CompletionRow(
        label,
        total,
        edits.num_calls,
        proportion_interval(int(result.molecule_stable.sum()), total),
        result.atom_fraction,
        proportion_interval(fixed, total),
        proportion_interval(recovered, total),
        seconds,
    )


def _fixed_satisfied(edits: Edits, fragments: list[Molecule]) -> int:
    """Molecules whose first atoms, those of the fragment, all have an allowed valence."""
    allowed = allowed_valences()
    valences = packed_valences(edits.molecules)
    last = allowed.shape[1] - 1
    good = (valences <= last) & allowed[edits.molecules.atomic_numbers, np.minimum(valences, last)]
    starts = edits.molecules.ptr[:-1]
    return sum(bool(good[a : a + fragments[row].num_atoms].all()) for a, row in zip(starts, edits.rows, strict=True))


@dataclass(frozen=True)
class VariationPoint:
    """Test molecules noised to one level and cleaned up; shares of all chains."""

    sigma: float  # angstrom
    num: int
    stable: Interval
    same: Interval  # the SMILES of the original
    rmsd: Interval | None  # angstrom, after alignment, of those with the same SMILES; None for fewer than FEWEST


def variation(
    weights: str, *, levels: tuple[float, ...], num_molecules: int, num_calls: int, keep_elements: bool, seed: int
) -> list[VariationPoint]:
    """Similarity to the original against the noise level; the same test molecules at every level."""
    edm = load(weights, precision="auto")
    originals = load_qm9(split="test", limit=num_molecules)
    truth = smiles_by_distance(originals)
    points = []
    for level in levels:
        edits = vary(
            edm,
            list(originals),
            sigma=level,
            num_calls=num_calls,
            keep_elements=keep_elements,
            guidance=0.0,
            generator=generator_from("vary", seed),
        )
        smiles = smiles_by_distance(edits.molecules)
        same = [row for row, one in zip(edits.rows, smiles, strict=True) if one is not None and one == truth[row]]
        places = {row: molecule.positions for row, molecule in zip(edits.rows, edits.molecules, strict=True)}
        moved = np.array([aligned_rmsd(places[row], originals[int(row)].positions) for row in same])
        points.append(
            VariationPoint(
                level,
                len(originals),
                proportion_interval(int(stability(edits.molecules).molecule_stable.sum()), len(originals)),
                proportion_interval(len(same), len(originals)),
                bootstrap_interval(moved) if len(moved) >= FEWEST else None,
            )
        )
    return points


def ladder(weights: str, *, levels: tuple[float, ...], num_calls: int, seed: int) -> list[Molecule]:
    """One test molecule and a variation of it at each level, for a picture: the molecule in the middle of the split."""
    edm = load(weights, precision="auto")
    original = load_qm9(split="test", limit=3)[1]
    made = [
        vary(edm, original, sigma=level, num_calls=num_calls, generator=generator_from("ladder", seed)).molecules[0]
        for level in levels
    ]
    return [original, *made]


@dataclass(frozen=True)
class CompositionRow:
    """Molecules of one formula made in one way; shares of all requests."""

    label: str
    num: int
    right: Interval  # with the formula that was asked for
    stable: Interval  # with the formula, and stable
    num_isomers: int  # different SMILES among the stable ones
    num_novel: int | None  # of those, not among the training molecules
    seconds: float | None


@dataclass(frozen=True)
class Compositions:
    """The rows, and the molecules of the last one."""

    formula: str
    rows: tuple[CompositionRow, ...]
    made: PackedMolecules


def compositions(weights: str, formula: str, *, count: int, num_calls: int, seed: int) -> Compositions:
    """Isomers of a formula: the data, waiting for it among free samples of that size, and holding it in the chain."""
    wanted = parse_formula(formula)
    known = load_reference_smiles().smiles
    edm = load(weights, precision="auto")
    rows = [
        _waited(f"QM9, {sum(wanted.values())} atoms", load_qm9(split="all"), wanted, known=None),
        _waited("free samples of that size, stored", stored_samples(weights), wanted, known=known),
    ]
    for label, (by_atom, guidance) in COMPOSITION_ARMS.items():
        started = perf_counter()
        options = {"by_atom": by_atom, "guidance": guidance, "num_calls": num_calls}
        edits = with_composition(edm, wanted, count=count, generator=generator_from("compose", seed), **options)
        rows.append(_composed(label, edits.molecules, count, known, seconds=perf_counter() - started))
    return Compositions(formula, tuple(rows), edits.molecules)


def _waited(
    label: str, molecules: PackedMolecules, wanted: dict[int, int], *, known: frozenset[str] | None
) -> CompositionRow:
    """What a set holds of the formula, among its molecules of that size."""
    same_size = molecules.select(molecules.num_atoms == sum(wanted.values()))
    numbers = same_size.atomic_numbers.reshape(len(same_size), -1)
    right = np.logical_and.reduce([(numbers == number).sum(axis=1) == count for number, count in wanted.items()])
    return _composed(label, same_size.select(right), len(same_size), known, seconds=None)


def _composed(
    label: str, right: PackedMolecules, total: int, known: frozenset[str] | None, *, seconds: float | None
) -> CompositionRow:
    """The row of `right` molecules out of `total` requests."""
    stable = stability(right).molecule_stable if len(right) else np.zeros(0, dtype=bool)
    isomers = {one for one in smiles_by_distance(right.select(stable)) if one is not None} if stable.any() else set()
    novel = None if known is None else len(isomers.difference(known))
    return CompositionRow(
        label,
        total,
        proportion_interval(len(right), max(total, 1)),
        proportion_interval(int(stable.sum()), max(total, 1)),
        len(isomers),
        novel,
        seconds,
    )


def model_words(weights: str) -> str:
    """The weights in a few words, for captions."""
    edm = load(weights, fast=False)
    passes = training_facts(weights).passes / 1e6
    return f"{weights}, {edm.config.num_layers} layers of width {edm.config.width}, {passes:.1f} million passes"
