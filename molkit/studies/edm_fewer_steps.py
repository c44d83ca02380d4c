"""Quality of samples against the number of network calls: what that chapter computes, and its stored file."""

import base64
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import process_time

import numpy as np

from molkit.claims import provenance
from molkit.config import stored_json
from molkit.data.qm9 import load_qm9
from molkit.edm import farm
from molkit.edm.engine import gains_from_bfloat16
from molkit.edm.farm import draw_many, join, request_of, sample_many
from molkit.edm.model import load, resolve
from molkit.edm.samplers import ANCESTRAL, DEFAULT, SAMPLERS, Sampler, sampler_named
from molkit.edm.sampling import make_plan
from molkit.errors import DataNotFound, RunError
from molkit.metrics.distributions import compare_distributions
from molkit.metrics.stability import stability
from molkit.metrics.statistics import Interval, proportion_interval, ratio_interval
from molkit.metrics.validity import validity
from molkit.molecule import PackedMolecules
from molkit.training.files import write_text

STORED = Path(__file__).resolve().parents[2] / "data" / "studies" / "edm_fewer_steps.json"
CALLS = (10, 20, 50, 100, 250, 500)
REFINED = ((0, 60), (150, 400), (900, 1000))  # steps: the last details, the skeleton of the molecule, the first signs
HALF = 50  # calls of the other candidate for the default
LARGEST_LOSS, LARGEST_UPPER_LIMIT = 1.0, 2.5  # points of stable molecules: the bar set before anything was run


@dataclass(frozen=True)
class Arm:
    """One setting to draw molecules with; num_calls None is the full chain."""

    sampler: Sampler
    num_calls: int | None
    count: int
    paired: int | None = None  # whole chunks up to here share the noise of the full chain, default all of them


@dataclass(frozen=True)
class ArmResult:
    """Counts of one setting. Chains that failed are missing in `molecules` and count as unstable and invalid."""

    sampler: str
    calls: int
    requested: int
    paired: int  # the first ones, drawn with the noise of the full chain; the others have noise of their own
    molecules: int
    stable_molecules: int
    stable_atoms: int
    atoms: int
    atom_interval: tuple[float, float]  # share of stable atoms, bootstrap over molecules
    valid: int
    unique: int  # distinct SMILES among the valid ones
    bond_distance: float | None  # angstrom, see bond_distance()
    seconds: float | None  # CPU time of sampling, a molecule; None where the chunks were not timed
    stable_bits: str  # a bit a molecule in the order drawn, base64

    @property
    def stable(self) -> np.ndarray:
        """Which molecules are stable, [molecules] bool."""
        bits = np.frombuffer(base64.b64decode(self.stable_bits), dtype=np.uint8)
        return np.unpackbits(bits, count=self.molecules).astype(bool)

    @property
    def molecule_stability(self) -> Interval:
        """Share of stable molecules among those asked for."""
        return proportion_interval(self.stable_molecules, self.requested)

    @property
    def atom_stability(self) -> Interval:
        """Share of stable atoms."""
        return Interval(self.stable_atoms / self.atoms, *self.atom_interval)


@dataclass(frozen=True)
class FewerSteps:
    """All settings of one model, drawn from the same seed with shared noise, and where they were drawn."""

    weights: str
    weights_sha256: str
    seed: int
    precision: str
    commit: str | None
    machine: str
    created: str
    data_bond_distance: (
        float | None
    )  # angstrom, QM9's validation split against its test split: what sampling alone leaves
    arms: tuple[ArmResult, ...]

    def arm(self, sampler: str, calls: int) -> ArmResult:
        """The arm of that name and number of calls. Raises DataNotFound."""
        for arm in self.arms:
            if (arm.sampler, arm.calls) == (sampler, calls):
                return arm
        known = ", ".join(f"{arm.sampler} {arm.calls}" for arm in self.arms)
        raise DataNotFound(f"no arm {sampler} with {calls} calls in this study; there are {known}")

    @property
    def reference(self) -> ArmResult:
        """The full ancestral chain."""
        return max((arm for arm in self.arms if arm.sampler == ANCESTRAL.name), key=lambda arm: arm.calls)


@dataclass(frozen=True)
class Loss:
    """Loss of stable molecules against the full chain in points, how it was estimated, and whether it meets the bar."""

    interval: Interval
    pairs: int  # molecules drawn both ways from the same noise; 0: two independent samples
    agreement: float | None  # correlation of the two flags over the pairs

    @property
    def meets_the_bar(self) -> bool:
        """At most 1 point, upper 95 % limit at most 2.5."""
        return self.interval.value <= LARGEST_LOSS and self.interval.high <= LARGEST_UPPER_LIMIT

    @property
    def certain(self) -> bool:
        """Whether more than 1 point is lost even at the lower 95 % limit."""
        return self.interval.low > LARGEST_LOSS

    @property
    def verdict(self) -> str:
        """met, missed, or open: neither the bar nor a loss beyond it is shown by this many molecules."""
        return "met" if self.meets_the_bar else "missed" if self.certain else "open"


def default_arms(
    *, full: int, best: int, curve: int, samplers: Sequence[str] = tuple(SAMPLERS), largest: int = 500
) -> list[Arm]:
    """The full chain, the default with `best` molecules, the default sampler at half its calls, and the curves.

    Curves go up to `largest` calls. As many molecules of the default share the noise of the full chain as there are
    full chains; the others have noise of their own.
    """
    rule = sampler_named(DEFAULT.sampler)
    arms = [Arm(ANCESTRAL, None, full), Arm(rule, DEFAULT.num_calls, best, full), Arm(rule, HALF, full)]
    arms += [Arm(sampler_named(name), calls, curve) for name in samplers for calls in CALLS if calls <= largest]
    arms += [Arm(sampler, 100, curve // 2) for sampler in refined_chains()]
    taken: dict[tuple[str, int | None], Arm] = {}
    for arm in arms:
        if arm.count:
            taken.setdefault((arm.sampler.name, arm.num_calls), arm)
    return list(taken.values())


def refined_chains() -> list[Sampler]:
    """The evenly strided ancestral chain with every step taken in one part of the way besides."""
    return [replace(ANCESTRAL, name=f"ancestral, all of {low}-{high}", fine=(low, high)) for low, high in REFINED]


def run_study(
    weights: str,
    arms: Iterable[Arm],
    *,
    seed: int,
    folder: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> FewerSteps:
    """Draw and score every arm; with `folder`, finished chunks are kept there and not drawn again.

    `report` is told a line after every arm.
    """
    test = load_qm9(split="test")
    digest = checksum(weights)
    place = None if folder is None else folder / digest[:12]  # chunks of other weights are never mistaken for these
    results = []
    for arm in arms:
        results.append(run_arm(weights, arm, seed=seed, folder=place, reference=test))
        report(in_words(results[-1]))
    return FewerSteps(
        weights=Path(weights).name,
        weights_sha256=digest,
        seed=seed,
        precision="bfloat16" if gains_from_bfloat16() else "float32",
        commit=provenance.commit()[0],
        machine=provenance.machine(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data_bond_distance=bond_distance(load_qm9(split="valid", limit=1000), test),
        arms=tuple(results),
    )


def in_words(arm: ArmResult) -> str:
    """One line about an arm."""
    share, cost = arm.molecule_stability.scaled(100.0), "" if arm.seconds is None else f", {arm.seconds:.3f} s each"
    return (
        f"{arm.sampler}, {arm.calls} calls, n {arm.requested}: {share.value:.1f} [{share.low:.1f}, {share.high:.1f}] % "
        f"stable molecules, {100 * arm.atom_stability.value:.2f} % atoms{cost}"
    )


def run_arm(weights: str, arm: Arm, *, seed: int, folder: Path | None, reference: PackedMolecules) -> ArmResult:
    """Molecules of one arm, with the noise that all arms of a seed share as far as the arm says, scored."""
    paired = arm.count if arm.paired is None else min(arm.count, arm.paired)
    request = request_of(weights, seed=seed, num_calls=arm.num_calls, sampler=arm.sampler)
    num_chunks = -(-arm.count // farm.CHUNK)
    whole = num_chunks if paired == arm.count else paired // min(farm.CHUNK, arm.count)
    drawn = []
    for shared, chunks in ((True, slice(whole)), (False, slice(whole, num_chunks))):
        name = f"{arm.sampler.name}_{arm.num_calls or 'all'}{'_shared' if shared else ''}_seed{seed}"
        place = None if folder is None else folder / name
        drawn.append(draw_many(replace(request, shared_path=shared), arm.count, folder=place, chunks=chunks))
    for which, reason in (item for one in drawn for item in one.failed.items()):
        raise RunError(f"{arm.sampler.name}: {which} could not be drawn: {reason}")
    cost = sum(one.seconds for one in drawn) / sum(one.asked for one in drawn)
    calls = make_plan(load(weights), arm.sampler, arm.num_calls).num_calls
    molecules = join(one.molecules for one in drawn)
    return score_arm(molecules, arm, paired=drawn[0].asked, calls=calls, seconds=cost, reference=reference)


def score_arm(
    molecules: PackedMolecules,
    arm: Arm,
    *,
    paired: int,
    calls: int,
    seconds: float | None,
    reference: PackedMolecules,
) -> ArmResult:
    """Counts of one set of molecules."""
    stable, chemical = stability(molecules), validity(molecules, reference_smiles=None)
    atoms = ratio_interval(stable.stable_atoms, stable.num_atoms)
    return ArmResult(
        sampler=arm.sampler.name,
        calls=calls,
        requested=arm.count,
        paired=paired,
        molecules=len(molecules),
        stable_molecules=int(stable.molecule_stable.sum()),
        stable_atoms=int(stable.stable_atoms.sum()),
        atoms=int(stable.num_atoms.sum()),
        atom_interval=(round(atoms.low, 5), round(atoms.high, 5)),
        valid=chemical.num_valid,
        unique=chemical.num_unique,
        bond_distance=bond_distance(molecules, reference),
        seconds=None if seconds is None else round(seconds, 5),
        stable_bits=base64.b64encode(np.packbits(stable.molecule_stable).tobytes()).decode(),
    )


def bond_distance(molecules: PackedMolecules, reference: PackedMolecules) -> float | None:
    """Wasserstein distance of bond lengths in angstrom: mean over kinds of bond, by their number in the reference.

    None where no kind occurs often enough on both sides.
    """
    rows = [row for row in compare_distributions(molecules, reference) if row.quantity == "bond_length"]
    known = [(row.distance, row.num_reference) for row in rows if row.distance is not None]
    if not known:
        return None
    distances, weights = np.array(known).T
    return round(float((distances * weights).sum() / weights.sum()), 6)


def loss(reference: ArmResult, arm: ArmResult, *, num_resamples: int = 4000, seed: int = 0) -> Loss:
    """Points of stable molecules lost against the reference, with a bootstrap interval over molecules.

    The first rows of both arms share sizes and noise. Over these the arm with fewer molecules is regressed on the
    other, and the regression is evaluated at that one's share over all of its molecules, which also uses its rows
    without a partner (a control variate; Source: derived here). Arms with failed chains, whose rows do not match, count
    as independent.
    """
    if reference.requested > arm.requested:
        turned = loss(arm, reference, num_resamples=num_resamples, seed=seed)
        interval = turned.interval
        return Loss(Interval(-interval.value, -interval.high, -interval.low), turned.pairs, turned.agreement)
    complete = reference.molecules == reference.requested and arm.molecules == arm.requested
    pairs = min(reference.paired, arm.paired) if complete else 0
    first, second = reference.stable, arm.stable
    cells = np.bincount(2 * first[:pairs] + second[:pairs], minlength=4)  # neither, the arm, the reference, both
    alone = (reference.requested - pairs, reference.stable_molecules - int(first[:pairs].sum()))
    other = (arm.requested - pairs, arm.stable_molecules - int(second[:pairs].sum()))
    slope, agreement = _dependence(cells / pairs) if pairs else (0.0, None)
    random = np.random.default_rng(seed)
    value = _points_lost(cells[None], alone[1], other[1], alone[0], other[0], slope)
    resampled = _points_lost(
        random.multinomial(pairs, cells / pairs, num_resamples) if pairs else np.zeros((1, 4)),
        random.binomial(alone[0], alone[1] / max(alone[0], 1), num_resamples),
        random.binomial(other[0], other[1] / max(other[0], 1), num_resamples),
        alone[0],
        other[0],
        slope,
    )
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Loss(Interval(float(value[0]), float(low), float(high)), pairs, agreement)


def _dependence(shares: np.ndarray) -> tuple[float, float | None]:
    """Slope of the reference on the arm and their correlation, from the shares of the four kinds of pairs."""
    _, arm, reference, both = shares
    first, second = reference + both, arm + both
    covariance = both - first * second
    spread = math.sqrt(first * (1 - first) * second * (1 - second))
    return (covariance / (second * (1 - second)), covariance / spread) if spread > 0 else (0.0, None)


def _points_lost(
    cells: np.ndarray, stable: np.ndarray | int, stable_other: np.ndarray | int, num: int, num_other: int, slope: float
) -> np.ndarray:
    """Loss in points from counts of pairs [R, 4] and of stable rows without a partner on either side, [R]."""
    pairs = cells.sum(axis=1)
    first, second = cells[:, 2] + cells[:, 3], cells[:, 1] + cells[:, 3]
    share = (second + stable_other) / (pairs + num_other)
    partner = (first - slope * (second - pairs * share) + stable) / (pairs + num)
    return 100.0 * (partner - share)


def write_study(study: FewerSteps, path: Path) -> None:
    """Write the study as JSON, whole or not at all."""
    write_text(path, json.dumps(asdict(study), indent=1) + "\n")


def read_study(path: Path = STORED) -> FewerSteps:
    """The study in a file. Raises DataNotFound where there is none, InvalidInput where it is not one."""
    with stored_json(
        path, "a stored study of fewer steps", f"molkit study fewer-steps WEIGHTS --out {path}"
    ) as entries:
        arms = tuple(ArmResult(**{**arm, "atom_interval": tuple(arm["atom_interval"])}) for arm in entries.pop("arms"))
        return FewerSteps(**entries, arms=arms)


@dataclass(frozen=True)
class LiveArm:
    """Molecules drawn for the page with the default sampler, beside what is stored for the same number of calls."""

    calls: int
    share: Interval
    seconds: float  # CPU time of all of them
    stored: Interval | None


def live_arms(weights: str, study: FewerSteps, *, calls: Sequence[int], num_molecules: int, seed: int) -> list[LiveArm]:
    """Stable molecules drawn now, from a seed that the stored arms do not use."""
    rows = []
    for number in calls:
        started = process_time()
        molecules = sample_many(weights, num_molecules, seed=seed, num_calls=number, sampler=DEFAULT.sampler)
        share = proportion_interval(int(stability(molecules).molecule_stable.sum()), num_molecules)
        seconds = process_time() - started
        known = [arm for arm in study.arms if (arm.sampler, arm.calls) == (DEFAULT.sampler, number)]
        rows.append(LiveArm(number, share, seconds, known[0].molecule_stability if known else None))
    return rows


def study_of(weights: str, *, recompute: int, seed: int) -> FewerSteps:
    """The stored study; with `recompute`, all arms drawn again with that many molecules each."""
    if not recompute:
        return read_study()
    return run_study(weights, default_arms(full=recompute, best=recompute, curve=recompute), seed=seed)


def of_other_weights(study: FewerSteps, weights: str) -> bool:
    """Whether the stored study was drawn from another state of the weights than those at hand."""
    return study.weights_sha256 != checksum(weights)


def checksum(weights: str) -> str:
    """SHA-256 of the file of weights."""
    return provenance.hash_files([resolve(weights) / "weights.safetensors"]).popitem()[1]


def losses(study: FewerSteps, *, seed: int = 0) -> list[tuple[ArmResult, Loss]]:
    """The loss of every arm against the full chain, by sampler and falling number of calls."""
    arms = [arm for arm in study.arms if arm is not study.reference]
    return [(arm, loss(study.reference, arm, seed=seed)) for arm in arms]


def fewest_calls(entries: Sequence[tuple[ArmResult, Loss]], sampler: str) -> int | None:
    """The smallest number of calls that meets the bar with no miss at more calls; None where none does.

    Arms of too few molecules to tell are passed over.
    """
    found = None
    for arm, lost in sorted(entries, key=lambda entry: -entry[0].calls):
        if arm.sampler == sampler:
            if lost.certain:
                break
            found = arm.calls if lost.meets_the_bar else found
    return found


def most_calls_that_lose(entries: Sequence[tuple[ArmResult, Loss]], sampler: str) -> int | None:
    """The largest number of calls at which the sampler loses more than 1 point for certain; None where none does."""
    return max((arm.calls for arm, lost in entries if arm.sampler == sampler and lost.certain), default=None)
