"""What symmetry and the scaling of the input are worth: the suite `ablations`, arm by arm, and its ledger rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from molkit.claims.ledger import Measurement
from molkit.claims.store import record
from molkit.data.qm9 import load_qm9
from molkit.data.registry import data_path
from molkit.edm import likelihood
from molkit.edm.model import build, load
from molkit.edm.sampling import sample
from molkit.metrics.score import Score
from molkit.metrics.statistics import Interval, bootstrap_interval, difference_of_intervals, interval_over_runs
from molkit.studies import edm_evaluation
from molkit.studies.edm_suite import STORED, ArmResult, run_suite, stored_results

SUITE = "ablations"
EDM, GDM, GDM_AUG, UNSCALED = "egnn", "gdm", "gdm_aug", "unscaled"
LABELS = {
    EDM: "EDM",
    GDM_AUG: "GDM-aug",
    GDM: "GDM",
    UNSCALED: "EDM, input not scaled",
    "no_attention": "EDM without the gate",
    "wide": "wider: 96 × 4 layers",
    "narrow": "narrower: 32 × 4",
    "deep": "deeper: 64 × 8",
    "shallow": "shallower: 64 × 2",
}
SHARES = ("atom_stability", "molecule_stability", "validity", "valid_and_unique")
LEAST_MOLECULES = 0.10  # no order of stable molecules is recorded while the best arm has fewer
ROWS = {  # claim -> (arm, figure)
    "edm.qm9.gdm.nll": (GDM, "nll"),
    "edm.qm9.gdm.atom_stable": (GDM, "atom_stability"),
    "edm.qm9.gdm.molecule_stable": (GDM, "molecule_stability"),
    "edm.qm9.gdm_aug.nll": (GDM_AUG, "nll"),
    "edm.qm9.gdm_aug.atom_stable": (GDM_AUG, "atom_stability"),
    "edm.qm9.gdm_aug.molecule_stable": (GDM_AUG, "molecule_stability"),
    "edm.qm9.gdm_aug.valid": (GDM_AUG, "validity"),
    "edm.scaling.unscaled.nll": (UNSCALED, "nll"),
    "edm.scaling.unscaled.atom_stable": (UNSCALED, "atom_stability"),
    "edm.scaling.unscaled.molecule_stable": (UNSCALED, "molecule_stability"),
}
ORDERS = {  # claim -> (arm, figure, arms it is compared with)
    "edm.order.symmetry.atom_stable": (EDM, "atom_stability", (GDM_AUG, GDM)),
    "edm.order.symmetry.molecule_stable": (EDM, "molecule_stability", (GDM_AUG, GDM)),
    "edm.order.symmetry.nll": (EDM, "nll", (GDM_AUG, GDM)),
    "edm.order.augmentation.atom_stable": (GDM_AUG, "atom_stability", (GDM,)),
    "edm.order.augmentation.nll": (GDM, "nll", (GDM_AUG,)),
    "edm.order.scaling.atom_stable": (EDM, "atom_stability", (UNSCALED,)),
    "edm.order.scaling.molecule_stable": (EDM, "molecule_stability", (UNSCALED,)),
    "edm.order.scaling.nll": (EDM, "nll", (UNSCALED,)),
}
LEAST_TRAININGS = 2  # of every arm in an order: the interval of one training does not hold the scatter between them


@dataclass(frozen=True)
class Arm:
    """One arm of the suite over its trainings; shares in 0..1, the bound in nats.

    Intervals hold the scatter between trainings and that of the molecules; those of a single training hold the
    molecules alone.
    """

    name: str
    label: str
    results: tuple[ArmResult, ...]  # the trainings that gave figures
    failures: tuple[str, ...]  # one reason for each training that did not
    figures: Mapping[str, Interval]  # empty when every training failed

    @property
    def num_trainings(self) -> int:
        """All of them, the failed ones too."""
        return len(self.results) + len(self.failures)

    def mean(self, quantity: str) -> float | None:
        """Mean over the trainings of a number such as `passes` or `cpu_seconds`; None where every one failed."""
        values = [float(getattr(result, quantity)) for result in self.results]
        return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class Reference:
    """A row beside the arms: the data, or a network that was not trained."""

    label: str
    score: Score
    nll: Interval | None


@dataclass(frozen=True)
class Ablations:
    """All arms of a suite, by the order they are shown in."""

    arms: tuple[Arm, ...]
    num_samples: int  # of one training
    num_calls: int
    sampler: str
    nll_molecules: int

    def arm(self, name: str) -> Arm | None:
        """The arm of that name, if it was run and gave figures."""
        return next((arm for arm in self.arms if arm.name == name and arm.figures), None)

    def differences(self, quantity: str, *, base: str = EDM) -> dict[str, Interval]:
        """Label -> figure of the arm minus that of `base`, for every other arm that has it."""
        reference = self.arm(base)
        if reference is None or quantity not in reference.figures:
            return {}
        return {
            arm.label: difference_of_intervals(arm.figures[quantity], reference.figures[quantity])
            for arm in self.arms
            if arm.name != base and quantity in arm.figures
        }


def ablations(*, runs: str = "", seeds: Sequence[int] = (0, 1, 2), suite: str = SUITE) -> Ablations:
    """The results that come with the repository, or, with `runs`, those of trainings made (or continued) there."""
    results = run_suite(suite, Path(runs), seeds=seeds) if runs else stored_results(suite)
    names = dict.fromkeys(
        [*(name for name in LABELS if any(r.arm == name for r in results)), *(r.arm for r in results)]
    )
    protocol = results[0].provenance
    return Ablations(
        tuple(_arm(name, [result for result in results if result.arm == name]) for name in names),
        results[0].num_samples,
        protocol["num_calls"],
        protocol["sampler"],
        protocol["nll_molecules"],
    )


def _arm(name: str, results: Sequence[ArmResult]) -> Arm:
    good = tuple(result for result in results if not result.failure)
    figures = {
        quantity: interval_over_runs([getattr(result, quantity) for result in good], within=bounds)
        for quantity, bounds in {**dict.fromkeys(SHARES, (0.0, 1.0)), "nll": (-math.inf, math.inf)}.items()
        if good and all(getattr(result, quantity) is not None for result in good)
    }
    failures = tuple(f"seed {result.seed}: {result.failure}" for result in results if result.failure)
    return Arm(name, LABELS.get(name, name.replace("_", " ")), good, failures, figures)


def data_row(*, num_molecules: int | None) -> Reference:
    """QM9 itself under the same code."""
    return Reference("QM9 itself", edm_evaluation.score_data(limit=num_molecules), None)


def untrained_row(weights: str, *, num_molecules: int, num_calls: int, seed: int) -> Reference:
    """A network of the same shape with the weights it starts from: samples and bound."""
    edm = build(load(weights, fast=False).config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    sizes = edm.draw_sizes(num_molecules, generator=generator)
    result = sample(edm, sizes, generator=generator, num_calls=num_calls)
    held_back = load_qm9(split="test", limit=num_molecules)
    bound = likelihood.bound(edm, held_back, generator=generator).total.numpy()
    scored = edm_evaluation.score(result.molecules, num_failed=len(result.failed))
    return Reference("EDM, not trained", scored, bootstrap_interval(bound))


def record_arms(found: Ablations) -> tuple[Measurement, ...]:
    """Ledger entries of the arms, and of those orders that the trainings allow to judge (see `may_order`)."""
    measured = []
    for claim, (name, quantity) in ROWS.items():
        arm = found.arm(name)
        if arm is not None and quantity in arm.figures:
            measured.append(_record(claim, arm, quantity, found))
    for claim, (name, quantity, others) in ORDERS.items():
        if may_order(found, quantity, (name, *others)):
            measured.append(_record(claim, found.arm(name), quantity, found))
    return tuple(measured)


def may_order(found: Ablations, quantity: str, names: Sequence[str]) -> bool:
    """Whether arms may be put in an order: LEAST_TRAININGS of each, and for stable molecules LEAST_MOLECULES."""
    best = max((arm.figures["molecule_stability"].value for arm in found.arms if arm.figures), default=0.0)
    if quantity == "molecule_stability" and best < LEAST_MOLECULES:
        return False
    arms = [found.arm(name) for name in names]
    return all(arm is not None and quantity in arm.figures and len(arm.results) >= LEAST_TRAININGS for arm in arms)


def _record(claim: str, arm: Arm, quantity: str, found: Ablations) -> Measurement:
    value = arm.figures[quantity] if quantity == "nll" else arm.figures[quantity].scaled(100.0)
    trainings = len(arm.results)
    share_of_n = found.nll_molecules if quantity == "nll" else trainings * found.num_samples
    return record(
        claim,
        value.value,
        interval=(value.low, value.high),
        interval_kind=f"{trainings} training(s) and molecules together, 95 %" if trainings > 1 else "molecules, 95 %",
        n=share_of_n,
        counts="test molecules" if quantity == "nll" else "molecules",
        basis="trained_here",
        training_passes=arm.mean("passes"),
        seeds=[result.seed for result in arm.results],
        seconds=sum(result.wall_seconds for result in arm.results),
        data_files=[
            data_path("qm9.npz"),
            *([STORED / f"{SUITE}.json"] if (STORED / f"{SUITE}.json").is_file() else []),
        ],
        notes=f"{trainings} training(s) of a small network; {found.num_calls} calls a sample, {found.sampler}; "
        "seconds: training and evaluation",
    )


@dataclass(frozen=True)
class Check:
    """The bound of stored weights computed now, beside what the suite wrote down for the same training."""

    label: str
    stored: Interval
    now: Interval
    num_molecules: int
    seconds: float


def check_weights(
    found: Ablations, weights: Mapping[str, str], *, num_molecules: int | None, seed: int = 0
) -> list[Check]:
    """arm -> published weights of its training with `seed`: their bound on test molecules (None: all of them), now."""
    checks = []
    for name, stored in weights.items():
        arm = found.arm(name)
        results = [] if arm is None else [result for result in arm.results if result.seed == seed]
        if not results or results[0].nll is None:
            continue
        started = perf_counter()
        now = edm_evaluation.nll_on_test(stored, num_molecules=num_molecules)
        checks.append(Check(arm.label, results[0].nll, now.mean, len(now.num_atoms), perf_counter() - started))
    return checks
