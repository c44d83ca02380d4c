"""What symmetry and the scaling of the input are worth: EDM trained without them (page `ablations`)."""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.special import ndtr
from torch import Tensor

from molkit.claims.ledger import REPOSITORY, Measurement, load_claims
from molkit.claims.record import record
from molkit.data.packed import read_packed
from molkit.data.qm9 import load_qm9
from molkit.data.registry import data_path
from molkit.edm.config import EdmConfig
from molkit.edm.diffusion import add_noise, draw_noise, predict_noise, squared_error
from molkit.edm.farm import sample_many
from molkit.edm.features import State, encode
from molkit.edm.likelihood import bound
from molkit.edm.model import Edm, build, load
from molkit.edm.published import learning_curve, num_failed_chains, stored_samples, training_facts
from molkit.edm.samplers import SAMPLERS
from molkit.edm.sampling import sample
from molkit.edm.schedule import alpha, log_snr_table, sigma
from molkit.edm.training import RECIPES, read_recipe, train_recipe
from molkit.errors import CalculationFailed, InvalidInput, RunError
from molkit.experiments.experiment import Comparison, asked, key_of
from molkit.experiments.show import Column
from molkit.figures import style
from molkit.figures.view3d import show_grid
from molkit.geometry import random_rotations
from molkit.graphs import Graph
from molkit.metrics.score import score_molecules
from molkit.metrics.statistics import (
    Interval,
    bootstrap_interval,
    difference_of_intervals,
    interval_over_runs,
    proportion_interval,
    ratio_interval,
)
from molkit.metrics.validity import connectedness, reference_smiles, validity
from molkit.molecule import Molecule, PackedMolecules
from molkit.studies.edm.chains import molecules_of
from molkit.training.run_folder import append_json, has_run
from molkit.training.weights import weight_files

if TYPE_CHECKING:
    from IPython.display import HTML

TRAININGS = REPOSITORY / "_run" / "trainings"  # trainings that were interrupted; may be deleted at any time
SCRATCH, PUBLISHED = "scratch", "published"
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
MAIN = (EDM, GDM_AUG, GDM, UNSCALED)  # of the paper
PASSES = 200_000  # of EDM in the steps that the recipes name
SEED = 0  # of samples and bound
CURVE_POINTS = 40
SHARES = {
    "atoms": "atom_stability",
    "molecules": "molecule_stability",
    "valid": "validity",
    "unique": "valid_and_unique",
}
LEAST_MOLECULES = 0.10  # no order of stable molecules is recorded while the best arm has fewer
LEAST_TRAININGS = 2  # of every arm in an order: the interval of one training does not hold the scatter between them
LEAST_OF_A_SIZE = 20  # molecules, for a point of the curve by size
QUADRATURE_POINTS = 64
CLAIMS = {EDM: "edm.qm9.edm", GDM_AUG: "edm.qm9.gdm_aug", GDM: "edm.qm9.gdm", UNSCALED: "edm.scaling.unscaled"}
NAMES_IN_CLAIMS = {"atoms": "atom_stable", "molecules": "molecule_stable", "valid": "valid", "nll": "nll"}
ROWS = {  # claim -> (arm, figure)
    "edm.qm9.gdm.nll": (GDM, "nll"),
    "edm.qm9.gdm.atom_stable": (GDM, "atoms"),
    "edm.qm9.gdm.molecule_stable": (GDM, "molecules"),
    "edm.qm9.gdm_aug.nll": (GDM_AUG, "nll"),
    "edm.qm9.gdm_aug.atom_stable": (GDM_AUG, "atoms"),
    "edm.qm9.gdm_aug.molecule_stable": (GDM_AUG, "molecules"),
    "edm.qm9.gdm_aug.valid": (GDM_AUG, "valid"),
    "edm.scaling.unscaled.nll": (UNSCALED, "nll"),
    "edm.scaling.unscaled.atom_stable": (UNSCALED, "atoms"),
    "edm.scaling.unscaled.molecule_stable": (UNSCALED, "molecules"),
}
ORDERS = {  # claim -> (arm, figure, arms it is compared with)
    "edm.order.symmetry.atom_stable": (EDM, "atoms", (GDM_AUG, GDM)),
    "edm.order.symmetry.molecule_stable": (EDM, "molecules", (GDM_AUG, GDM)),
    "edm.order.symmetry.nll": (EDM, "nll", (GDM_AUG, GDM)),
    "edm.order.augmentation.atom_stable": (GDM_AUG, "atoms", (GDM,)),
    "edm.order.augmentation.nll": (GDM, "nll", (GDM_AUG,)),
    "edm.order.scaling.atom_stable": (EDM, "atoms", (UNSCALED,)),
    "edm.order.scaling.molecule_stable": (EDM, "molecules", (UNSCALED,)),
    "edm.order.scaling.nll": (EDM, "nll", (UNSCALED,)),
}
LINES = dict(zip(LABELS, ((c, "-") for c in (style.BLUE, style.GREEN, style.ORANGE, style.PURPLE)), strict=False))
ARMS = {
    "label": "",
    "trainings": Column("trainings"),
    "parameters": Column("parameters"),
    "shown": Column("passes, thousands", 0, 1e-3),
    "cpu_seconds": Column("CPU, s"),
    "atoms": Column("stable atoms, %", 1, 100),
    "molecules": Column("stable molecules, %", 1, 100),
    "valid": Column("valid, %", 1, 100),
    "nll": Column("NLL, nats", 1),
}
DIFFERENCES = {
    "label": "arm less EDM",
    "atoms": Column("stable atoms, points", 1, 100),
    "atoms_verdict": "",
    "nll": Column("NLL, nats", 1),
    "nll_verdict": "",
}
HEAVY = {
    "label": "",
    "num": Column("n"),
    "valid": Column("valid, %", 1, 100),
    "valid_unique": Column("valid and unique, %", 1, 100),
    "one_piece": Column("in one piece, %", 1, 100),
    "novel": Column("novel of unique, %", 1, 100),
}
TURNED = {
    "label": "",
    "stored": Column("as in the file", 3),
    "turned": Column("turned at random", 3),
    "ratio": Column("ratio", 3),
}
AUDIT = Comparison(alike={"atoms": 0.1, "nll": 40.0}, repeats="seed")


@dataclass(frozen=True)
class Task:
    """One training of one arm, or its published weights, and how it is sampled and scored."""

    arm: str
    weights: str  # "scratch" trains, "published" takes those in data/weights
    part: str  # of the training split: "all" or "half"
    passes: int  # of EDM; arms that see other numbers at the same CPU time have as many times more or fewer
    seed: int
    num_samples: int
    num_calls: int
    sampler: str
    num_bound: int  # test molecules of the likelihood bound; 0 for all

    @property
    def files(self) -> list[Path]:
        """The recipe or the weights, and the data."""
        own = [recipe_of(self.arm)] if self.weights == SCRATCH else weight_files(published_weights(self.arm))
        return [*own, data_path("qm9.npz")]


def recipe_of(arm: str) -> Path:
    """The recipe of an arm."""
    return RECIPES / "ablations" / f"{arm}.yaml"


def published_weights(arm: str) -> str:
    """The name of the weights of an arm's training with seed 0."""
    return f"edm_ablation_{arm}"


@asked
def tasks(
    *,
    arms: Sequence[str] = MAIN,
    weights: Literal["scratch", "published"] = "scratch",
    parts: Sequence[str] = ("all",),
    passes: int = PASSES,
    seeds: Sequence[int] = (0, 1, 2),
    num_samples: int = 1000,
    num_calls: int = 100,
    sampler: str = "sde-2m",
    num_bound: int = 2000,
) -> list[Task]:
    """Trainings of arms (recipes in data/recipes/ablations), with every seed and on each part of the training split.

    Passes: molecules shown to EDM; arms of other widths and depths train for the same CPU time. Parts: all, half.
    Raises InvalidInput for an unknown arm or part, a training without passes, or published weights of another seed.
    """
    known = sorted(path.stem for path in recipe_of("*").parent.glob("*.yaml"))
    for what, chosen, there in (("arm", arms, known), ("part", parts, ["all", "half"])):
        if unknown := [name for name in chosen if name not in there]:
            raise InvalidInput(f"no {what} {unknown[0]!r}; there are {', '.join(there)}")
    if weights == PUBLISHED and (tuple(seeds), tuple(parts)) != ((0,), ("all",)):
        raise InvalidInput("published weights are those of the training with seed 0 on the whole split: give --seeds 0")
    if passes < 1 or num_samples < 1:
        raise InvalidInput(f"need passes and samples, got {passes} and {num_samples}")
    return [
        Task(arm, weights, part, passes, seed, num_samples, num_calls, sampler, num_bound)
        for seed in seeds
        for part in parts
        for arm in arms
    ]


def measure(task: Task) -> list[dict[str, Any]]:
    """One row: what the training cost and what it reached; shares in 0..1 and the bound in nats, with their intervals.

    An interrupted training goes on where it was. Raises CalculationFailed where the loss ceased to be finite.
    """
    if task.weights == PUBLISHED:
        weights, about = published_weights(task.arm), training_facts(published_weights(task.arm))
        cost = {"shown": about.passes, "steps": about.step, "cpu_seconds": None} | curve_of(learning_curve(weights))
        return [cost | scored(weights, task)]
    folder = TRAININGS / key_of(task)
    row = trained(task, folder) | scored(folder, task)
    shutil.rmtree(folder)
    return [row]


def trained(task: Task, folder: Path) -> dict[str, Any]:
    """Train, or continue, in a folder: passes, steps, CPU seconds of all sessions and the learning curve."""
    recipe, started = recipe_of(task.arm), process_time()
    steps = max(1, round(read_recipe(recipe).training.total_steps * task.passes / PASSES))
    limit = len(load_qm9(split="train")) // 2 if task.part == "half" else None
    options = {"device": "cpu", "progress_bar": False, "total_steps": steps, "limit": limit}
    try:
        result = train_recipe(recipe, out=folder, seed=task.seed, resume=has_run(folder), **options)
    except RunError as error:
        if "finite" not in str(error):
            raise
        shutil.rmtree(folder)
        raise CalculationFailed(f"the training diverged: {error}") from None
    finally:
        if folder.is_dir():
            append_json(folder / "cost.jsonl", {"cpu_seconds": process_time() - started})
    if not result.finished:
        raise RunError(f"stopped at step {result.step} of {result.total_steps}; the same command goes on with it")
    seconds = float(pd.read_json(folder / "cost.jsonl", lines=True)["cpu_seconds"].sum())
    cost = {"shown": result.passes, "steps": result.step, "cpu_seconds": round(seconds, 1)}
    return cost | curve_of(learning_curve(folder) if (folder / "metrics.jsonl").is_file() else [])


def curve_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """At most CURVE_POINTS mean errors of the noise over stretches of equal length, at the end of each stretch."""
    points = np.array([(line["passes"], line["noise_error"]) for line in lines], dtype=float).reshape(-1, 2)
    stretches = [one for one in np.array_split(points, CURVE_POINTS) if len(one)]
    return {
        "curve_passes": [int(one[-1, 0]) for one in stretches],
        "curve_error": [round(float(one[:, 1].mean()), 6) for one in stretches],
    }


def scored(weights: str | Path, task: Task) -> dict[str, Any]:
    """Size of the network, its samples by EDM's rule, and its bound on test molecules."""
    options = {"seed": SEED, "num_calls": task.num_calls, "sampler": task.sampler}
    molecules = sample_many(weights, task.num_samples, **options)
    lost = task.num_samples - len(molecules)
    found = score_molecules(molecules, num_failed=lost)
    edm, generator = load(weights), torch.Generator().manual_seed(SEED)
    total = bound(edm, load_qm9(split="test", limit=task.num_bound or None), generator=generator).total.numpy()
    figures = {name: getattr(found, field) for name, field in SHARES.items()} | {"nll": bootstrap_interval(total)}
    parameters = sum(one.numel() for one in load(weights, fast=False).network.parameters())
    row = {"parameters": parameters, "lost": lost, "bound_molecules": len(total)}
    for name, one in figures.items():
        row |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
    return row


def per_arm(rows: pd.DataFrame) -> pd.DataFrame:
    """One line an arm: how many trainings, mean cost, and figures over trainings.

    Intervals hold the scatter between trainings and that of the molecules; those of one training the molecules alone.
    """
    lines = []
    for arm, group in rows.groupby("arm", sort=False):
        cost = group[["parameters", "shown", "cpu_seconds"]].astype(float).mean().to_dict()
        figures = {}
        for name in (*SHARES, "nll"):
            ends = group[[name, f"{name}_low", f"{name}_high"]].to_numpy(float)
            within = (-math.inf, math.inf) if name == "nll" else (0.0, 1.0)
            figures[name] = interval_over_runs([Interval(*one) for one in ends.tolist()], within=within)
        lines.append({"arm": arm, "label": LABELS.get(str(arm), arm), "trainings": len(group), **cost, **figures})
    return pd.DataFrame(lines, dtype=object)


def published(arms: Sequence[str] = MAIN) -> pd.DataFrame:
    """The paper's lines: shares in 0..1, nats."""
    claims, lines = load_claims(study="edm"), []
    for arm in arms:
        known = {name: claims.get(f"{CLAIMS[arm]}.{word}") for name, word in NAMES_IN_CLAIMS.items()}
        values = {name: one.value / (1 if name == "nll" else 100) for name, one in known.items() if one is not None}
        lines.append({"label": f"{LABELS[arm]}, published", **values})
    return pd.DataFrame(lines, dtype=object)


def beside(*, num_data: int, num_untrained: int, num_calls: int, seed: int) -> pd.DataFrame:
    """QM9's test molecules under the same code (0: all), and a network as EDM's with the weights it starts from."""
    edm = build(read_recipe(recipe_of(EDM)).model, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    made = sample(edm, edm.draw_sizes(num_untrained, generator=generator), generator=generator, num_calls=num_calls)
    held_back = load_qm9(split="test", limit=num_untrained)
    nats = bootstrap_interval(bound(edm, held_back, generator=generator).total.numpy())
    scores = {
        "QM9 itself": score_molecules(load_qm9(split="test", limit=num_data or None)),
        "EDM, not trained": score_molecules(made.molecules, num_failed=len(made.failed)),
    }
    lines = [
        {"label": label} | {name: getattr(one, field) for name, field in SHARES.items()}
        for label, one in scores.items()
    ]
    lines[1]["nll"] = nats
    return pd.DataFrame(lines, dtype=object)


def together(*tables: pd.DataFrame) -> pd.DataFrame:
    """Tables below each other; what one of them does not have is empty."""
    lines = [line for table in tables for line in table.to_dict("records")]
    return pd.DataFrame(lines, columns=[name for name in ARMS], dtype=object)


def differences(arms: pd.DataFrame, *, base: str = EDM) -> pd.DataFrame:
    """Figures of every arm less those of `base`, and whether zero lies outside the interval."""
    reference = arms.set_index("arm").loc[base]
    lines = []
    for line in arms[arms["arm"] != base].to_dict("records"):
        found = {name: difference_of_intervals(line[name], reference[name]) for name in ("atoms", "nll")}
        lines.append(
            {"label": line["label"], **found} | {f"{name}_verdict": verdict(one) for name, one in found.items()}
        )
    return pd.DataFrame(lines, dtype=object)


def verdict(difference: Interval) -> str:
    """What a difference shows."""
    return "higher" if difference.low > 0.0 else "lower" if difference.high < 0.0 else "not shown"


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """The noise error of the first training of every arm: `arm`, `passes`, `error`."""
    first = rows.drop_duplicates("arm")
    return pd.concat(
        [
            pd.DataFrame({"arm": line.arm, "passes": line.curve_passes, "error": line.curve_error})
            for line in first.itertuples()
        ]
    )


def record_arms(rows: pd.DataFrame) -> list[Measurement]:
    """Ledger entries of the arms, and of those orders that the trainings allow to judge (see `may_order`)."""
    arms = per_arm(rows).set_index("arm")
    wanted = {claim: (arm, figure) for claim, (arm, figure) in ROWS.items() if arm in arms.index}
    wanted |= {
        c: (arm, figure) for c, (arm, figure, others) in ORDERS.items() if may_order(arms, figure, (arm, *others))
    }
    return [_record(claim, rows, arms, *chosen) for claim, chosen in wanted.items()]


def may_order(arms: pd.DataFrame, figure: str, names: Sequence[str]) -> bool:
    """Whether arms may be put in an order: LEAST_TRAININGS of each, and for stable molecules LEAST_MOLECULES."""
    if figure == "molecules" and max(one.value for one in arms["molecules"]) < LEAST_MOLECULES:
        return False
    return all(name in arms.index and arms["trainings"][name] >= LEAST_TRAININGS for name in names)


def _record(claim: str, rows: pd.DataFrame, arms: pd.DataFrame, arm: str, figure: str) -> Measurement:
    own = rows[rows["arm"] == arm]
    trainings, about = len(own), own.iloc[0]
    several = f"{trainings} training(s) and molecules together, 95 %"
    return record(
        claim,
        arms[figure][arm].scaled(1.0 if figure == "nll" else 100.0),
        rows,
        n=int(about["bound_molecules"] if figure == "nll" else trainings * about["num_samples"]),
        basis="trained_here",
        interval_kind=several if trainings > 1 else "molecules, 95 %",
        training_passes=float(own["shown"].mean()),
        seeds=own["seed"].tolist(),
        notes=f"{trainings} training(s) of a small network; {about['num_calls']} calls a sample, {about['sampler']}",
    )


def draw_arms(rows: pd.DataFrame, *, caption: str) -> Figure:
    """Stable atoms and NLL of every arm: a dot for each training, the mean with its interval."""
    arms = per_arm(rows)
    size = {"width": 8.6, "height": 0.9 + 0.34 * len(arms), "sharey": True}
    with style.panels(2, caption=caption, **size) as (figure, axes):
        for axis, name, factor in zip(axes, ("atoms", "nll"), (100.0, 1.0), strict=True):
            for place, line in enumerate(arms.to_dict("records")):
                mean, singles = line[name].scaled(factor), factor * rows.loc[rows["arm"] == line["arm"], name]
                ends = [[mean.value - mean.low], [mean.high - mean.value]]
                colour = LINES.get(line["arm"], (style.BLACK, "-"))[0]
                axis.errorbar(mean.value, place, xerr=ends, fmt="|", ms=11, capsize=3, color=colour)
                axis.plot(singles, np.full(len(singles), place + 0.2), "o", ms=3.5, color=colour, alpha=0.7)
        axes[0].set_yticks(range(len(arms)), list(arms["label"]))
        axes[0].invert_yaxis()
        axes[0].set_xlabel("stable atoms (%), more is better")
        axes[1].set_xlabel("NLL (nats per molecule), less is better")
    return figure


def turn_sweep(arms: Sequence[str], *, row: int, step: int, num_angles: int, draws: int, seed: int) -> pd.DataFrame:
    """Squared noise error per component of one test molecule at angles about the z axis, by published weights.

    The molecule and its noise are turned together, so a network with the symmetry makes the same error at any angle.
    Columns arm, degrees, error (mean over the draws) and spread (its standard error).
    """
    copies = PackedMolecules.from_molecules([load_qm9(split="test")[row].centred()] * draws)
    lines = []
    for arm in arms:
        edm = load(published_weights(arm))
        for degrees in np.linspace(0.0, 360.0, num_angles):
            turn = about_z(degrees).expand(draws, 3, 3)
            found = errors_at(edm, copies, step=step, turn=turn, seed=seed)
            spread = found.std(ddof=1) / math.sqrt(draws)
            lines.append({"arm": arm, "degrees": degrees, "error": found.mean(), "spread": spread})
    return pd.DataFrame(lines)


def orientations(arms: Sequence[str], *, num_molecules: int, seed: int) -> pd.DataFrame:
    """Noise errors of test molecules at random steps, as stored and turned at random, and their ratio."""
    molecules = load_qm9(split="test", limit=num_molecules)
    turns = random_rotations(num_molecules, generator=torch.Generator().manual_seed(seed))
    lines = []
    for arm in arms:
        still, turned = (
            errors_at(load(published_weights(arm)), molecules, step=None, turn=turn, seed=seed)
            for turn in (torch.eye(3).expand(num_molecules, 3, 3), turns)
        )
        about = {"stored": bootstrap_interval(still), "turned": bootstrap_interval(turned)}
        lines.append({"label": LABELS[arm], **about, "ratio": ratio_interval(turned, still)})
    return pd.DataFrame(lines)


@torch.no_grad()
def errors_at(edm: Edm, molecules: PackedMolecules, *, step: int | None, turn: Tensor, seed: int) -> np.ndarray:
    """Squared error per noise component of every molecule, turned (turn [B, 3, 3]) together with its noise, [B].

    step None: one step of 1..T drawn for each molecule; steps and noise follow from `seed` alone.
    """
    generator = torch.Generator().manual_seed(seed)
    graph = Graph.from_sizes(torch.from_numpy(molecules.num_atoms))
    positions = graph.centre(torch.from_numpy(molecules.positions).float())
    clean = encode(edm.config, torch.from_numpy(molecules.atomic_numbers), positions)
    drawn = torch.randint(1, edm.config.num_steps + 1, (len(molecules),), generator=generator)
    steps = drawn if step is None else torch.full_like(drawn, step)
    noise = rotated(draw_noise(graph, clean.features.shape[1], generator=generator), graph, turn)
    noisy = add_noise(rotated(clean, graph, turn), noise, edm.log_snr[steps][graph.batch].unsqueeze(-1))
    predicted = predict_noise(edm.network, noisy, steps, graph, num_steps=edm.config.num_steps)
    components = graph.num_atoms * (3 + clean.features.shape[1])
    return (squared_error(noise, predicted, graph) / components).double().numpy()


def rotated(state: State, graph: Graph, turn: Tensor) -> State:
    """Positions of every molecule multiplied by its own matrix, turn [B, 3, 3]."""
    matrices = turn.to(state.positions)[graph.batch]
    return State(torch.einsum("aij,aj->ai", matrices, state.positions), state.features)


def about_z(degrees: float) -> Tensor:
    """Rotation about the z axis, [3, 3]."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def samples(arms: Sequence[str], *, count: int, num_calls: int, seed: int) -> "HTML":
    """The first molecules of the published weights of arms, a row for each arm; sizes and noise from one seed."""
    shown: list[Molecule] = []
    for arm in arms:
        edm, generator = load(published_weights(arm)), torch.Generator().manual_seed(seed)
        sizes = edm.draw_sizes(count, generator=generator)
        options = {"num_calls": num_calls, "sampler": SAMPLERS["sde-2m"]}
        shown += list(sample(edm, sizes, generator=generator, **options).molecules)
    named = ", below ".join(LABELS[arm] for arm in arms)
    return show_grid(shown, columns=count, caption=f"Above {named}: the first {count} molecules of each, none picked.")


def draw_turns(sweep: pd.DataFrame, *, caption: str) -> Figure:
    """Noise error against the angle by which the molecule is turned."""
    with style.panels(width=7.2, height=3.2, caption=caption) as (figure, (axis,)):
        for arm, group in sweep.groupby("arm", sort=False):
            look = {"color": LINES[str(arm)][0], "marker": "o", "ms": 3, "lw": 1.2, "label": LABELS[str(arm)]}
            axis.errorbar(group["degrees"], group["error"], yerr=group["spread"], **look)
        axis.set(xlabel="angle (°)", ylabel="noise error per component", xlim=(-5, 365), ylim=(0, None))
        axis.set_xticks(range(0, 361, 60))
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def element_is_right(blur: np.ndarray, scale: float, *, num_types: int = 5) -> np.ndarray:
    """Chance that the right one-hot channel, of height 1 / scale, is the largest of `num_types` at a blur.

    The integral of phi(u) Phi(u + 1 / (scale blur))^(K - 1) du, by Gauss-Hermite quadrature. Source: derived here.
    """
    points, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE_POINTS)
    below = ndtr(points[:, None] + 1.0 / (scale * np.asarray(blur)))
    return (weights[:, None] * below ** (num_types - 1)).sum(0) / math.sqrt(2.0 * math.pi)


def hydrogen_is_told(blur: np.ndarray, scale: float) -> np.ndarray:
    """Chance to tell hydrogen from carbon by the channel of Z / scale."""
    return ndtr((6 - 1) / (2.0 * scale * np.asarray(blur)))


CHANNELS: dict[str, tuple[str, tuple[float, float], Callable[..., np.ndarray]]] = {
    "element from the one-hot channels": ("one-hot", (1.0, 4.0), element_is_right),
    "hydrogen or carbon from the channel of Z": ("Z", (1.0, 10.0), hydrogen_is_told),
}


def draw_readability(*, caption: str) -> Figure:
    """How surely elements can be read at each blur of the paper's schedule, one atom alone; nothing is random."""
    table = log_snr_table(EdmConfig())
    blur = (sigma(table) / alpha(table)).numpy()
    with style.panels(2, width=8.6, height=3.0, caption=caption, sharey=True) as (figure, axes):
        for axis, (title, (name, scales, chance)) in zip(axes, CHANNELS.items(), strict=True):
            axis.axvspan(0.95, 1.55, color="#dfe3e6", zorder=0)  # bond lengths, angstrom
            for scale, colour in zip(scales, (style.PAPER_COLOUR, style.MODEL_COLOUR), strict=True):
                axis.plot(blur, 100.0 * chance(blur, scale), color=colour, label=f"{name} / {scale:g}")
            axis.set(xscale="log", xlim=(10.0, 0.01), xlabel="blur of positions σ/α (Å)")
            axis.set_title(title, fontsize=10, pad=24)
            style.legend_above(axis)
        axes[0].set_ylabel("chance to be right (%)")
    return figure


def without_hydrogens(weights: str | Path) -> bool:
    """Whether the weights place no hydrogens."""
    return 1 not in load(weights, fast=False).config.elements


def skeletons(molecules: PackedMolecules, *, num_failed: int = 0) -> pd.DataFrame:
    """Molecules given by their heavy atoms as rows: `num_atoms`, `atomic_numbers`, `smiles` where valid, `one_piece`.

    Hydrogens are filled in by RDKit; failed chains are rows with nothing.
    """
    smiles = validity(molecules, reference_smiles=None).smiles
    rows = [
        {"num_atoms": one.num_atoms, "atomic_numbers": one.atomic_numbers.tolist(), "smiles": smiles[k]}
        for k, one in enumerate(molecules[row] for row in range(len(molecules)))
    ]
    lost = dict.fromkeys(["num_atoms", "atomic_numbers", "smiles"])
    found = pd.DataFrame([*rows, *[lost] * num_failed])
    joined = connectedness(molecules, rule="qm9").in_one_piece
    return found.assign(one_piece=np.concatenate([joined, np.zeros(num_failed, dtype=bool)]))


def drawn_skeletons(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `molkit.studies.edm.chains` of a model without hydrogens, with `one_piece`."""
    joined = connectedness(molecules_of(rows), rule="qm9").in_one_piece
    whole = pd.Series(joined, index=rows.dropna(subset=["positions"]).index)
    return rows.assign(one_piece=whole.reindex(rows.index, fill_value=False))


def untrained_skeletons(weights: str, *, num_molecules: int, num_calls: int = 10, seed: int = 0) -> pd.DataFrame:
    """What a network of the same shape draws that has learned nothing."""
    edm = build(load(weights, fast=False).config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    made = sample(edm, edm.draw_sizes(num_molecules, generator=generator), generator=generator, num_calls=num_calls)
    return skeletons(made.molecules, num_failed=len(made.failed))


def known_skeletons() -> frozenset[str]:
    """SMILES of the heavy atoms of QM9's training split; half a minute."""
    return reference_smiles(load_qm9(split="train").without_hydrogens())


def heavy_line(label: str, rows: pd.DataFrame, *, known: frozenset[str] | None = None) -> dict[str, Any]:
    """Shares of valid, valid and distinct, connected, and (of the distinct ones, given what is known) novel rows."""
    distinct = set(rows["smiles"].dropna())
    novel = proportion_interval(len(distinct - known), len(distinct)) if known is not None and distinct else None
    return {
        "label": label,
        "num": len(rows),
        "valid": proportion_interval(int(rows["smiles"].notna().sum()), len(rows)),
        "valid_unique": proportion_interval(len(distinct), len(rows)),
        "one_piece": proportion_interval(int(rows["one_piece"].sum()), len(rows)),
        "novel": novel,
    }


def heavy_table(kinds: Mapping[str, pd.DataFrame], *, known: frozenset[str] | None = None) -> pd.DataFrame:
    """A line for each set of rows, see `heavy_line`."""
    return pd.DataFrame([heavy_line(label, rows, known=known) for label, rows in kinds.items()], dtype=object)


def record_heavy(rows: pd.DataFrame) -> list[Measurement]:
    """Record what the ledger asks for of rows of `molkit.studies.edm.chains`."""
    line, weights = heavy_line("", drawn_skeletons(rows)), str(rows["weights"].iloc[0])
    about = {"weights": weights, "training_passes": training_facts(weights).passes, "basis": "trained_here"}
    about |= {"interval_kind": "Wilson, 95 %", "seeds": sorted(rows["seed"].unique())}
    notes = f"{rows['num_calls'].iloc[0]} network calls a sample, {rows['sampler'].iloc[0]}"
    return [
        record(f"edm.qm9_without_h.edm.{name}", line[name].scaled(100.0), rows, n=len(rows), notes=notes, **about)
        for name in ("valid", "valid_unique")
    ]


def draw_heavy(data: pd.DataFrame, ours: pd.DataFrame, *, caption: str) -> Figure:
    """Validity by number of heavy atoms, for sizes with at least LEAST_OF_A_SIZE rows, and the elements."""
    kinds = ((data, style.DATA_COLOUR, "QM9 itself"), (ours, style.MODEL_COLOUR, "EDM, trained here"))
    symbols = {6: "C", 7: "N", 8: "O", 9: "F"}
    with style.panels(2, width=8.0, height=2.8, caption=caption) as (figure, axes):
        for k, (rows, colour, label) in enumerate(kinds):
            by_size = rows["smiles"].notna().groupby(rows["num_atoms"]).agg(["sum", "count"])
            by_size = by_size[by_size["count"] >= LEAST_OF_A_SIZE]
            found = [proportion_interval(int(one["sum"]), int(one["count"])) for _, one in by_size.iterrows()]
            values = 100.0 * np.array([[one.value, one.low, one.high] for one in found]).reshape(-1, 3)
            look = {"color": colour, "marker": "o", "ms": 4, "lw": 1.2, "label": label}
            axes[0].errorbar(by_size.index, values[:, 0], np.abs(values[:, 1:] - values[:, :1]).T, **look)
            atoms = np.concatenate([np.array(one) for one in rows["atomic_numbers"].dropna()])
            shares = [100.0 * float((atoms == number).mean()) for number in symbols]
            axes[1].bar(np.arange(len(symbols)) + 0.4 * k - 0.2, shares, 0.38, color=colour, label=label)
        axes[0].set(xlabel="heavy atoms", ylabel="valid (%)")
        axes[0].xaxis.get_major_locator().set_params(integer=True)
        axes[1].set_xticks(range(len(symbols)), list(symbols.values()))
        axes[1].set(xlabel="element", ylabel="share of atoms (%)")
        style.legend_above(axes[1])
    return figure


def evaluate_weights(
    weights: str | Path, *, samples: Path | None = None, nll_molecules: int = 500, draws: int = 1, seed: int = 0
) -> dict[str, Any]:
    """Validity of the samples kept with weights without hydrogens (or given), and the bound on test molecules."""
    molecules = stored_samples(weights) if samples is None else read_packed(samples)
    lost = num_failed_chains(weights) if samples is None else 0
    line = heavy_line("samples", skeletons(molecules, num_failed=lost))
    plain = {name: asdict(one) if isinstance(one, Interval) else one for name, one in line.items()}
    report: dict[str, Any] = {"weights": str(weights), "samples": plain | {"failed": lost}}
    if nll_molecules:
        held_back = load_qm9(split="test", limit=nll_molecules).without_hydrogens()
        terms = bound(load(weights), held_back, generator=torch.Generator().manual_seed(seed), draws=draws)
        mean = bootstrap_interval(terms.total.numpy())
        report["nll_nats"] = asdict(mean) | {"molecules": len(held_back), "terms": terms.means()}
    return report
