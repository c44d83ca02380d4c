"""Molecules of drug size: what the chapter of that name computes, on the drug-size set at hand (not GEOM-Drugs)."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from molkit.data.drug_size import SPLITS, DrugSizeSet, elements_of, load_drug_size
from molkit.data.packed import read_packed
from molkit.edm.edit_checks import check_sizes
from molkit.edm.likelihood import bound
from molkit.edm.model import build, load, quickest
from molkit.edm.published import num_failed_chains, stored_samples, training_facts
from molkit.edm.samplers import Sampler, sampler_named
from molkit.edm.sampling import sample
from molkit.edm.schedule import sigma
from molkit.errors import InvalidInput
from molkit.metrics.distributions import element_fractions
from molkit.metrics.energies import EnergySample, mmff_energies, null_distances, wasserstein_interval
from molkit.metrics.stability import stability
from molkit.metrics.statistics import Interval, bootstrap_interval, proportion_interval, ratio_interval
from molkit.metrics.validity import connectedness, validity
from molkit.molecule import Molecule, PackedMolecules
from molkit.rng import generator_from

BLUR_ANGSTROM = 0.1
UNTRAINED_CALLS = 100
MOST_BLURRED = 200  # geometries; bonds of bad ones are slow to find
SIZE_EDGES = (0, 30, 40, 50, 60, 1000)
HELD_BACK, TRAINED_ON = "data, held back", "data, trained on"
OURS, BLURRED, UNTRAINED = "EDM, trained here", "held-back data, blurred by 0.1 Å", "the same network, untrained"
SHARES = ("atoms_stable", "molecules_stable", "single_bond_valid", "perceived", "one_piece", "largest_share")
PUBLISHED = {"EDM on GEOM-Drugs, published": (81.3, 92.6), "GEOM-Drugs itself, published": (86.5, None)}


@dataclass(frozen=True)
class SplitFacts:
    """One split of the drug-size set in numbers."""

    split: str
    num_molecules: int
    num_geometries: int
    mean_atoms: float  # over geometries
    largest: int
    mean_pairs: float  # ordered pairs of a geometry
    charged: float  # share of geometries with a total charge
    elements: str


@dataclass(frozen=True)
class LiveDraw:
    """Molecules drawn while the page is made."""

    molecules: PackedMolecules
    requested: int
    num_calls: int
    seconds: float
    mean_pairs: float

    @property
    def milliseconds_a_call(self) -> float:
        """Wall time of one network call of one molecule, loading and all else included."""
        return 1e3 * self.seconds / (self.requested * self.num_calls)


@dataclass(frozen=True)
class Film:
    """One molecule on its way out of the noise."""

    frames: tuple[np.ndarray, ...]  # each [A, 3], angstrom
    molecule: Molecule
    steps: tuple[int, ...]
    sigma: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Scored:
    """Everything measured on one set of molecules; shares in [0, 1] with 95 % intervals."""

    label: str
    num_molecules: int  # geometries, failed chains included
    atoms_stable: Interval
    molecules_stable: Interval
    single_bond_valid: Interval  # sanitized with every bond single, as the paper's GEOM code does
    perceived: Interval  # a graph with bond orders and charges was found for total charge 0
    one_piece: Interval
    largest_share: Interval  # mean share of a molecule's atoms in its largest piece
    energies: EnergySample
    groups: np.ndarray | None  # molecule of each geometry with an energy; None where all are independent


@dataclass(frozen=True)
class EnergyRow:
    """Distance of one set's energies from those of the held-back data, kcal/mol."""

    label: str
    num_molecules: int
    num_energies: int
    median: Interval | None
    distance: Interval | None
    null: Interval | None  # what as many values drawn from the training data show
    failures: dict[str, int]


@dataclass(frozen=True)
class BoundRow:
    """The likelihood bound on one split, one geometry a molecule."""

    split: str
    num_molecules: int
    unseen_sizes: int  # molecules whose number of atoms the training part does not hold; left out
    per_molecule: Interval  # nats
    per_atom: Interval  # sum of nats / sum of atoms


@dataclass(frozen=True)
class SizeBins:
    """Share of stable atoms by number of atoms of the molecule."""

    labels: tuple[str, ...]
    shares: dict[str, tuple[Interval | None, ...]]  # source -> one interval a bin
    counts: dict[str, tuple[int, ...]]  # geometries


def split_facts() -> list[SplitFacts]:
    """Numbers of molecules, sizes and elements of the three splits."""
    rows = []
    for split in SPLITS:
        found = load_drug_size(split=split)
        sizes = found.molecules.num_atoms
        rows.append(
            SplitFacts(
                split,
                len(np.unique(found.entries)),
                len(found),
                float(sizes.mean()),
                int(sizes.max()),
                float((sizes * (sizes - 1)).mean()),
                float((found.charges != 0).mean()),
                " ".join(element_fractions(found.molecules)),
            )
        )
    return rows


def live_draw(weights: str, *, num_molecules: int, num_calls: int, seed: int) -> LiveDraw:
    """Sizes from the training histogram, molecules from noise, now."""
    started = perf_counter()
    edm = load(weights, precision="auto")
    generator = torch.Generator().manual_seed(seed)
    sizes = edm.draw_sizes(num_molecules, generator=generator)
    result = sample(edm, sizes, generator=generator, num_calls=num_calls, sampler=sampler_of(weights))
    pairs = float((sizes * (sizes - 1)).double().mean())
    return LiveDraw(result.molecules, num_molecules, result.num_calls, perf_counter() - started, pairs)


def film(weights: str, *, num_atoms: int, num_calls: int, num_frames: int, seed: int) -> Film:
    """One trajectory from noise to a molecule of `num_atoms` atoms. Raises InvalidInput for a size nobody trained."""
    edm = load(weights, precision="auto")
    check_sizes(edm, torch.tensor([num_atoms]))
    generator = torch.Generator().manual_seed(seed)
    result = sample(
        edm,
        torch.tensor([num_atoms]),
        generator=generator,
        num_calls=num_calls,
        sampler=sampler_of(weights),
        keep_frames=num_frames,
    )
    molecule = result.molecules[0]
    steps = tuple(frame.step for frame in result.frames)
    frames = tuple(frame.positions for frame in result.frames) + (molecule.positions,)
    return Film(frames, molecule, steps, tuple(float(sigma(edm.log_snr[step])) for step in steps))


def sampler_of(weights: str | Path) -> Sampler:
    """The sampler behind the stored samples, used for all that is drawn with these weights."""
    return sampler_named(training_facts(weights).sampler or "ancestral")


def score_sets(weights: str, *, num_data: int, num_samples: int, num_untrained: int, seed: int) -> list[Scored]:
    """The data's rows, two rows that should fail, and the stored samples; counts of 0 mean all there are."""
    train, test = (load_drug_size(split=split, limit=num_data or None) for split in ("train", "test"))
    some = load_drug_size(split="test", limit=min(num_data or MOST_BLURRED, MOST_BLURRED))
    kept = stored_samples(weights)
    ours = kept if not num_samples else kept.select(np.arange(min(num_samples, len(kept))))
    failed = 0 if num_samples else num_failed_chains(weights)
    return [
        score_set(TRAINED_ON, train.molecules, groups=train.entries),
        score_set(HELD_BACK, test.molecules, groups=test.entries),
        score_set(BLURRED, blurred(some, seed=seed), groups=some.entries),
        score_set(UNTRAINED, *untrained_samples(weights, num_untrained, seed=seed)),
        score_set(OURS, ours, num_failed=failed),
    ]


def blurred(data: DrugSizeSet, *, seed: int) -> PackedMolecules:
    """The geometries with normal noise of 0.1 angstrom on every coordinate: a yardstick for what a score notices."""
    generator = generator_from("blurred drug-size data", seed)
    noise = torch.randn(len(data.molecules.positions), 3, generator=generator, dtype=torch.float64).numpy()
    return replace(data.molecules, positions=data.molecules.positions + BLUR_ANGSTROM * noise)


def untrained_samples(weights: str, count: int, *, seed: int) -> tuple[PackedMolecules, int]:
    """Molecules of a network of the same shape that learned nothing, and how many chains failed."""
    edm = build(load(weights, fast=False).config, seed=seed)
    edm = replace(edm, network=quickest(edm.network.eval(), edm.device))
    generator = generator_from("untrained drug-size network", seed)
    result = sample(edm, edm.draw_sizes(count, generator=generator), generator=generator, num_calls=UNTRAINED_CALLS)
    return result.molecules, len(result.failed)


def score_set(
    label: str, molecules: PackedMolecules, num_failed: int = 0, *, groups: np.ndarray | None = None
) -> Scored:
    """All figures of one set. `groups` [B] says which molecule a geometry belongs to, for intervals over molecules.

    Chains that failed count as molecules of the mean size without a stable atom, never as a success.
    """
    stable = stability(molecules, rule="geom")
    single = validity(molecules, reference_smiles=None, rule="geom")
    pieces = connectedness(molecules, rule="geom")
    energies = mmff_energies(molecules)
    seen = np.isin(np.arange(len(molecules)), energies.perceived)
    atoms = _padded(stable.stable_atoms, num_failed, 0), _padded(stable.num_atoms, num_failed, stable.num_atoms.mean())
    largest = _padded(pieces.largest_share, num_failed, 0.0)
    share = lambda flags: _share(_padded(flags, num_failed, False), groups)  # noqa: E731
    return Scored(
        label,
        len(molecules) + num_failed,
        _ratio(*atoms, groups),
        share(stable.molecule_stable),
        share(np.array([entry is not None for entry in single.smiles])),
        share(seen),
        share(pieces.in_one_piece),
        _ratio(largest, np.ones(len(largest)), groups),
        energies,
        None if groups is None else groups[energies.rows],
    )


def energy_table(sets: list[Scored], *, num_resamples: int, seed: int) -> list[EnergyRow]:
    """Energies of every set against the held-back data, with the distance that data of the same size show."""
    by_label = {scored.label: scored for scored in sets}
    reference, pool = by_label[HELD_BACK], by_label[TRAINED_ON].energies.energies
    rows = []
    for scored in sets:
        values, distance, null = scored.energies.energies, None, None
        if len(values) >= 2 and scored is not reference:
            distance = wasserstein_interval(
                values, reference.energies.energies, groups=reference.groups, num_resamples=num_resamples, seed=seed
            )
            null = null_distances(
                pool, reference.energies.energies, size=len(values), num_draws=num_resamples, seed=seed
            )
        median = bootstrap_interval(values, statistic=np.median) if len(values) >= 2 else None
        rows.append(
            EnergyRow(scored.label, scored.num_molecules, len(values), median, distance, null, scored.energies.failures)
        )
    return rows


def bounds(weights: str, *, num_molecules: int, draws: int, seed: int) -> list[BoundRow]:
    """The bound on trained and held-back molecules, one geometry each (0: all of a split, as many of train as test)."""
    edm = load(weights)
    known = set(dict(edm.config.sizes))
    sets = {split: load_drug_size(split=split).one_per_molecule() for split in SPLITS}
    wanted = num_molecules or len(sets["test"])
    rows = []
    for split, found in sets.items():
        spread = np.linspace(0, len(found) - 1, min(wanted, len(found))).round().astype(int)
        chosen = found.molecules.select(spread)
        seen = np.isin(chosen.num_atoms, list(known))
        molecules = chosen.select(seen)
        terms = bound(edm, molecules, generator=torch.Generator().manual_seed(seed), draws=draws)
        total = terms.total.numpy()
        rows.append(
            BoundRow(
                split,
                len(molecules),
                int((~seen).sum()),
                bootstrap_interval(total),
                ratio_interval(total, molecules.num_atoms),
            )
        )
    return rows


def stability_by_size(weights: str, *, num_data: int) -> SizeBins:
    """Share of stable atoms in bins of size, of the held-back data and of the stored samples."""
    test = load_drug_size(split="test", limit=num_data or None)
    sets = {HELD_BACK: (test.molecules, test.entries), OURS: (stored_samples(weights), None)}
    labels = tuple(f"{low}–{high - 1}" for low, high in zip(SIZE_EDGES[:-1], SIZE_EDGES[1:], strict=True))
    labels = (f"below {SIZE_EDGES[1]}", *labels[1:-1], f"{SIZE_EDGES[-2]} and more")
    shares, counts = {}, {}
    for name, (molecules, groups) in sets.items():
        result = stability(molecules, rule="geom")
        place = np.digitize(molecules.num_atoms, SIZE_EDGES) - 1
        inside = [np.flatnonzero(place == k) for k in range(len(labels))]
        shares[name] = tuple(
            _ratio(result.stable_atoms[rows], result.num_atoms[rows], None if groups is None else groups[rows])
            if len(rows)
            else None
            for rows in inside
        )
        counts[name] = tuple(map(len, inside))
    return SizeBins(labels, shares, counts)


def compositions(weights: str) -> dict[str, dict[str, float]]:
    """Share of each element among the atoms of the training part and of the stored samples."""
    return {
        TRAINED_ON: element_fractions(load_drug_size(split="train").molecules),
        OURS: element_fractions(stored_samples(weights)),
    }


def evaluate_weights(
    weights: str | Path, *, samples: Path | None = None, nll_molecules: int = 500, draws: int = 1, seed: int = 0
) -> dict[str, Any]:
    """Figures of the samples kept with the weights (or given) and of the bound on every split, as plain numbers.

    Raises DataNotFound when there are no samples, InvalidInput for samples that are not a packed file.
    """
    if samples is not None and samples.suffix != ".npz":
        raise InvalidInput(f"{samples}: expected a packed .npz of molecules (`molkit score` reads .xyz and .sdf)")
    kept = stored_samples(weights) if samples is None else read_packed(samples)
    test = load_drug_size(split="test")
    ours = score_set(OURS, kept, num_failed_chains(weights) if samples is None else 0)
    scored = [score_set(TRAINED_ON, load_drug_size(split="train", limit=len(test)).molecules), ours]
    held_back = score_set(HELD_BACK, test.molecules, groups=test.entries)
    report: dict[str, Any] = {"weights": str(weights)}
    for one in (held_back, ours):
        shares = {key: asdict(getattr(one, key)) for key in SHARES}
        report["samples" if one is ours else "data"] = {"molecules": one.num_molecules} | shares
    rows = energy_table([held_back, *scored], num_resamples=200, seed=seed)
    report["energies_kcal"] = asdict(next(row for row in rows if row.label == OURS))
    if nll_molecules:
        found = bounds(str(weights), num_molecules=nll_molecules, draws=draws, seed=seed)
        report["nll_nats"] = [asdict(row) for row in found]
    return report


def is_for(weights: str | Path) -> bool:
    """Whether the weights place the elements of the drug-size set, so that they are measured against it."""
    return set(load(weights, fast=False).config.elements) >= set(elements_of(load_drug_size(split="train").molecules))


def model_in_words(weights: str) -> str:
    """Size and training of published weights, and how their samples were drawn, in words."""
    edm, facts = load(weights), training_facts(weights)
    count = sum(parameter.numel() for parameter in edm.network.parameters())
    return (
        f"{edm.config.num_layers} layers of width {edm.config.width}, {count:,} parameters, {facts.passes:,} molecule "
        f"passes ({facts.epochs:.0f} epochs) in {facts.seconds / 60:.0f} minutes on {facts.device}; stored samples by "
        f"{facts.sampler or 'ancestral'}, {facts.sample_calls} network calls each"
    )


def _padded(values: np.ndarray, count: int, value: float) -> np.ndarray:
    """The values and `count` more for chains that gave no molecule."""
    return np.concatenate([np.asarray(values, dtype=float), np.full(count, float(value))])


def _ratio(numerators: np.ndarray, denominators: np.ndarray, groups: np.ndarray | None) -> Interval:
    """Ratio of sums with a bootstrap over molecules, the geometries of a molecule kept together.

    Where it is exactly 0 or 1 every resample is the same: then Wilson's interval for as many molecules.
    """
    if groups is not None:
        place = np.unique(groups, return_inverse=True)[1]
        numerators, denominators = np.bincount(place, numerators), np.bincount(place, denominators)
    count = len(numerators)
    if numerators.sum() in (0.0, denominators.sum()):
        return proportion_interval(count if numerators.sum() else 0, count)
    return ratio_interval(numerators, denominators)


def _share(flags: np.ndarray, groups: np.ndarray | None) -> Interval:
    """Share of true flags: Wilson for independent molecules, bootstrap over molecules for conformers."""
    if groups is None:
        return proportion_interval(int(flags.sum()), len(flags))
    return _ratio(flags, np.ones(len(flags)), groups)
