"""Two phases of inference: whole chains, the null of a perfect model, energies on the path."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from molkit.chem.bond_orders import ALLOWED_VALENCES, packed_valences
from molkit.chem.xtb import XtbEnergy, num_electrons
from molkit.claims.ledger import Measurement
from molkit.claims.record import record
from molkit.data.qm9 import load_qm9
from molkit.data.registry import data_root
from molkit.edm.config import EdmConfig
from molkit.edm.model import load
from molkit.edm.published import training_facts
from molkit.edm.schedule import log_snr_table
from molkit.errors import CalculationFailed, InvalidInput
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column
from molkit.figures.style import BLACK, BLUE, GREEN, SKY, VERMILION, panels
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.molecule import ATOMIC_NUMBER, PackedMolecules
from molkit.relaxation import phases
from molkit.relaxation.chains import Trajectory, generate
from molkit.relaxation.denoisers import ExactDenoiser, NetworkDenoiser
from molkit.rng import generator_from
from molkit.training.weights import weight_files
from molkit.units import EV_TO_KCAL

NUM_ATOMS = 19
FINE_BELOW, COARSE = 100, 100  # curves have every frame below the first step, and one in so many above
CLOSE = 0.05  # angstrom, bond-length error of a settled geometry
VALENCE = {ATOMIC_NUMBER[symbol]: ALLOWED_VALENCES[symbol][0] for symbol in ("H", "C", "N", "O", "F")}
KINDS = {"elements": "elements", "predicted_elements": "predicted elements", "bond_orders": "bond orders"}
SETTLED = KINDS | {"bond_lengths": "bond lengths"}
COLOURS = {"elements": BLUE, "predicted_elements": SKY, "bond_orders": VERMILION}
NULL = "elements, perfect model"
AUDIT = Comparison(
    alike={"odd": 0.6, "elements": 30.0, "predicted_elements": 300.0, "bond_orders": 20.0, "bond_lengths": 20.0}
)
AUDIT_null = Comparison(alike={"elements": 20.0})
AUDIT_paths = Comparison(alike={"failed": 40.0})


@dataclass(frozen=True)
class Task:
    """One chain from noise to a molecule of 19 atoms."""

    weights: str
    chain: int
    num_atoms: int
    seed: int

    @property
    def files(self) -> list[Path]:
        """The weights."""
        return weight_files(self.weights)


@asked
def tasks(*, weights: str = "edm_qm9", chains: int = 100, num_atoms: int = NUM_ATOMS, seed: int = 0) -> list[Task]:
    """Chains with noise of their own. Raises InvalidInput for none."""
    if chains < 1:
        raise InvalidInput(f"need at least one chain, got {chains}")
    return [Task(weights, chain, num_atoms, seed) for chain in range(chains)]


def measure(task: Task) -> list[dict[str, Any]]:
    """One row: when everything became final, and the curves of the chain. Raises CalculationFailed for a lost chain.

    `atoms_...`: the step from which on a property of each atom is final; `elements`, `predicted_elements` and
    `bond_orders` those of the whole molecule, `bond_lengths` that below which their mean error is under 0.05 angstrom
    (None without a bond). At `steps`: `valid` share of atoms with the valence of their element, `step_size` and
    `bond_error` in angstrom. `odd`: whether the molecule has an odd number of electrons.
    """
    return [row_of(_chain(task))]


def row_of(run: Trajectory) -> dict[str, Any]:
    """What a chain comes to, see `measure`."""
    steps, places, elements = run.steps, run.positions, run.elements
    valences = valences_along(places, elements)
    errors = phases.bond_length_errors(places, elements[-1])
    sizes = np.concatenate([[np.nan], phases.step_sizes(places)])
    kept = (steps < FINE_BELOW) | (steps % COARSE == 0)
    atoms = {"elements": elements, "predicted_elements": run.predicted_elements, "bond_orders": valences}
    atoms = {name: phases.final_step(values, steps) for name, values in atoms.items()}
    bonded = bool(np.isfinite(errors[-1]))
    valid = (valences == np.vectorize(VALENCE.__getitem__)(elements)).mean(axis=-1)
    curves = {"steps": steps, "valid": valid.round(4), "step_size": sizes.round(5), "bond_error": errors.round(5)}
    return {
        "odd": bool(num_electrons(run.molecule) % 2),
        **{f"atoms_{name}": found.tolist() for name, found in atoms.items()},
        **{name: int(found.min()) for name, found in atoms.items()},
        "bond_lengths": int(phases.final_step(errors < CLOSE, steps)) if bonded else None,
        **{name: [None if np.isnan(one) else one for one in values[kept].tolist()] for name, values in curves.items()},
    }


def valences_along(positions: np.ndarray, elements: np.ndarray) -> np.ndarray:
    """Bond-order sum of every atom in every frame, [F, A], elements as in the frame."""
    frames, atoms = elements.shape
    return packed_valences(
        PackedMolecules(np.full(frames, atoms), elements.reshape(-1), positions.reshape(-1, 3))
    ).reshape(elements.shape)


@lru_cache(maxsize=16)
def _chain(task: Task) -> Trajectory:
    torch.set_num_threads(1)
    generator = generator_from("phases", task.seed, task.chain)
    (run,) = generate(NetworkDenoiser(load(task.weights)), [task.num_atoms], generator=generator)
    if run is None:
        raise CalculationFailed("the chain did not stay finite")
    return run


@dataclass(frozen=True)
class NullTask:
    """Chains of a model that knows the answer from the start: QM9 molecules of 19 atoms, spread evenly."""

    count: int
    num_atoms: int
    seed: int

    @property
    def files(self) -> list[Path]:
        """The molecules."""
        return [data_root() / "qm9.npz"]


@asked
def tasks_null(*, molecules: int = 100, num_atoms: int = NUM_ATOMS, seed: int = 0) -> list[NullTask]:
    """One task, of all molecules. Raises InvalidInput where there are fewer."""
    known = int((load_qm9(split="test").num_atoms == num_atoms).sum())
    if not 1 <= molecules <= known:
        raise InvalidInput(f"1 to {known} test molecules have {num_atoms} atoms, asked for {molecules}")
    return [NullTask(molecules, num_atoms, seed)]


def measure_null(task: NullTask) -> list[dict[str, Any]]:
    """A row for each molecule: the steps from which on the largest noisy channel of its atoms is final."""
    pack, config = load_qm9(split="test"), EdmConfig()
    rows = np.flatnonzero(pack.num_atoms == task.num_atoms)
    known = list(pack.select(rows[np.arange(task.count) * len(rows) // task.count]))
    denoiser = ExactDenoiser.knowing(config, log_snr_table(config), known, turn=False)
    runs = generate(denoiser, [task.num_atoms] * task.count, generator=generator_from("null", task.seed))
    settled = [phases.final_step(run.elements, run.steps) for run in runs if run is not None]
    return [{"atoms_elements": found.tolist(), "elements": int(found.min())} for found in settled]


@asked
def tasks_paths(*, weights: str = "edm_qm9", chains: int = 10, num_atoms: int = NUM_ATOMS, seed: int = 0) -> list[Task]:
    """The first chains of `tasks`."""
    return list(tasks(weights=weights, chains=chains, num_atoms=num_atoms, seed=seed))


def measure_paths(task: Task) -> list[dict[str, Any]]:
    """One row: GFN2-xTB energies above the end, kcal/mol, from the first frame with final elements on.

    `diffusion` at `steps` of the chain and `straight` on the line between the two ends, half as many images; None where
    a frame has no energy, `failed` of them. A molecule with an odd number of electrons has no path: its shell is open.
    """
    return [path_of(_chain(task))]


def path_of(run: Trajectory) -> dict[str, Any]:
    """The path of a chain, see `measure_paths`."""
    if num_electrons(run.molecule) % 2:
        return {"odd": True, "steps": [], "diffusion": [], "straight": [], "failed": 0}
    first = min(int(phases.final_step(run.elements, run.steps).min()), FINE_BELOW - 1)
    frames = run.positions[run.steps <= first].astype(np.float64)
    line = phases.straight_line(frames[0], frames[-1], max(2, len(frames) // 2))
    energy = XtbEnergy(run.molecule)
    walked, straight = (np.array([_height(energy, place) for place in places]) for places in (frames, line))
    heights = {
        name: [None if np.isnan(one) else round(one, 3) for one in (values - walked[-1]).tolist()]
        for name, values in (("diffusion", walked), ("straight", straight))
    }
    failed = int(np.isnan(walked).sum() + np.isnan(straight).sum())
    return {"odd": False, "steps": run.steps[run.steps <= first].tolist(), **heights, "failed": failed}


def _height(energy: XtbEnergy, place: np.ndarray) -> float:
    try:
        return energy(place).energy * EV_TO_KCAL
    except CalculationFailed:
        return float("nan")


def apart(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """All chains, and those whose molecules have an even and an odd number of electrons."""
    odd = rows["odd"].astype(bool)
    return {"all": rows, "even": rows[~odd], "odd": rows[odd]}


def order(rows: pd.DataFrame, null: pd.DataFrame) -> pd.DataFrame:
    """Steps left when half of the molecules are final in each respect: median and interval, all, even and odd apart."""
    groups = apart(rows)
    lines = [{"what": word, **{g: median(part[name]) for g, part in groups.items()}} for name, word in SETTLED.items()]
    lines.append({"what": NULL, "all": median(null["elements"]), "even": None, "odd": None})
    counts = {"what": "number of molecules", **{g: len(part) for g, part in groups.items()}}
    return pd.DataFrame([*lines, counts], dtype=object)


def median(values: pd.Series) -> Interval | None:
    """Median of what is known with its bootstrap interval; None for nothing."""
    known = values.dropna().to_numpy(dtype=float)
    return bootstrap_interval(known, statistic=np.median) if len(known) else None


ORDER = {"what": "", "all": Column("all molecules"), "even": Column("even electrons"), "odd": Column("odd electrons")}
RISES = {
    "chain": Column("chain"),
    "frames": Column("frames"),
    "diffusion": Column("diffusion path", 1),
    "straight": Column("straight line", 1),
    "failed": Column("without an energy"),
}


def rises(rows: pd.DataFrame) -> pd.DataFrame:
    """How far the paths of the even molecules rise above the higher of their ends, kcal/mol."""
    even = rows[~rows["odd"].astype(bool)]
    return pd.DataFrame(
        {
            "chain": even["chain"],
            "frames": even["steps"].map(len),
            **{
                name: even[name].map(lambda path: phases.highest_rise(numbers(path)))
                for name in ("diffusion", "straight")
            },
            "failed": even["failed"],
        }
    )


def numbers(values: Sequence[float | None]) -> np.ndarray:
    """A list of a row as floats, NaN for what is not there."""
    return np.array(values, dtype=float)


def draw_shares(rows: pd.DataFrame, null: pd.DataFrame) -> Figure:
    """Share of atoms and of molecules that have what they will end with, and the null of a perfect model."""
    caption = (
        f"n = {len(rows)} chains of {rows['num_atoms'].iloc[0]} atoms. Per cent of atoms (left) and molecules (right) "
        "whose elements or bond orders stay as they are from this step to the end. Elements: largest channel of the "
        "noisy state; predicted elements: of the clean molecule that the network predicts. Dotted: elements of a "
        "perfect model that knows them from the start, in the noisy state."
    )
    steps = np.arange(EdmConfig().num_steps)
    with panels(2, width=8.8, height=3.3, caption=caption) as (figure, axes):
        for one, (kind, start) in zip(axes, (("atoms", "atoms_"), ("molecules", "")), strict=True):
            for name, colour in COLOURS.items():
                one.plot(steps + 1, _share(rows[start + name], steps), color=colour, label=KINDS[name])
            one.plot(steps + 1, _share(null[start + "elements"], steps), color=BLACK, ls=":", label=NULL)
            _steps_left(one, full=True)
            one.set(ylabel=f"{kind} with their final value (%)", ylim=(-2, 102))
        here, valid, _ = _band(rows, "valid")
        axes[0].plot(here + 1, 100 * valid, color=GREEN, lw=1.0, label="valid valence")
        axes[0].legend(fontsize=7.5)
    return figure


def _share(settled: pd.Series, steps: np.ndarray) -> np.ndarray:
    """Per cent that are final at each step; the entries are steps, or lists of them."""
    return 100 * phases.share_final(np.concatenate([np.atleast_1d(one) for one in settled]), steps)


def _band(rows: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps at which some chain has a value, and its mean and standard deviation over chains."""
    values = np.stack([numbers(one) for one in rows[name]])
    known = np.isfinite(values).any(axis=0)
    here = np.array(rows["steps"].iloc[0])[known]
    return here, np.nanmean(values[:, known], axis=0), np.nanstd(values[:, known], axis=0)


def draw_movements(rows: pd.DataFrame) -> Figure:
    """How far atoms move in a step, and how far bonds are from their final length."""
    caption = (
        f"n = {len(rows)} chains; line: mean, band: one standard deviation over chains. Bonds are those of the last "
        "frame. The last steps of the chain."
    )
    with panels(2, width=8.8, height=3.0, caption=caption) as (figure, axes):
        labels = {"step_size": "step (Å)", "bond_error": "bond-length error (Å)"}
        for one, (name, label) in zip(axes, labels.items(), strict=True):
            here, mean, spread = _band(rows, name)
            near = (here < FINE_BELOW) & (mean > 0)
            here, mean, spread = here[near] + 1, mean[near], spread[near]
            one.plot(here, mean, color=BLUE)
            one.fill_between(here, np.maximum(mean - spread, 0.1 * mean), mean + spread, color=BLUE, alpha=0.2, lw=0)
            _steps_left(one, full=False)
            one.set(ylabel=label, yscale="log")
        axes[1].axhline(CLOSE, color=BLACK, lw=0.8, ls="--")
    return figure


def _steps_left(axes: Axes, *, full: bool) -> None:
    axes.set(xlabel="steps left, of 1,000", xlim=(1000 if full else FINE_BELOW, 1 if full else 0))
    if full:
        axes.set_xscale("log")


def draw_paths(rows: pd.DataFrame) -> Figure:
    """Energies along the chains and along the straight lines between their ends."""
    even = rows[~rows["odd"].astype(bool)]
    caption = (
        f"{len(even)} molecules with an even number of electrons, GFN2-xTB energy above the end. Full: the chain from "
        "the first frame with final elements on; dashed: straight line between the two ends."
    )
    with panels(1, width=6.4, height=3.2, caption=caption) as (figure, (axes,)):
        for number, (steps, *paths) in enumerate(zip(even["steps"], even["diffusion"], even["straight"], strict=True)):
            for path, kind in zip(paths, ("-", "--"), strict=True):
                places = np.linspace(steps[0] + 1, 0, len(path)) if kind == "--" else np.array(steps) + 1
                axes.plot(places, numbers(path), color=f"C{number}", lw=1.1, ls=kind)
        axes.set(xlabel="steps left, of 1,000", ylabel="energy above the end (kcal/mol)", yscale="symlog")
        axes.invert_xaxis()
    return figure


def measurements(rows: pd.DataFrame) -> list[Measurement]:
    """The four medians over all chains, for the ledger."""
    weights, odd = str(rows["weights"].iloc[0]), int(rows["odd"].sum())
    return [
        record(
            f"relaxation.phases.{name}",
            median(rows[name]),
            rows,
            n=int(rows[name].notna().sum()),
            basis="trained_here",
            interval_kind="bootstrap over chains, 95 %, of the median",
            weights=weights,
            training_passes=float(training_facts(weights).passes),
            seeds=[int(rows["seed"].iloc[0])],
            notes=f"{odd} of {len(rows)} molecules have an odd number of electrons",
        )
        for name in SETTLED
        if rows[name].notna().any()
    ]
