"""Fewer network calls: what a long step costs, and a race of samplers from the same noise (chains: `chains.py`)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from molkit.data.qm9 import load_qm9
from molkit.data.registry import data_path
from molkit.edm.diffusion import add_noise, draw_noise, predict_noise, squared_error
from molkit.edm.features import encode
from molkit.edm.model import load
from molkit.edm.samplers import ANCESTRAL, SAMPLERS, grid_steps
from molkit.edm.sampling import Plan, make_plan
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column
from molkit.figures import style
from molkit.graphs import Graph
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.rng import generator_from
from molkit.studies.edm import chains
from molkit.training.weights import weight_files

AUDIT = Comparison(within={"error": 0.02})
LARGEST_LOSS, LARGEST_UPPER_LIMIT = 1.0, 2.5  # points of stable molecules: the bar set before anything was run
QUADRATIC = SAMPLERS["ancestral-quadratic"]
STRIDED = {"even": ANCESTRAL, "quadratic": replace(QUADRATIC, first=1.0), "quadratic, blind start": QUADRATIC}
COLOURS = {
    "ancestral": style.BLACK,
    "ancestral-quadratic": style.ORANGE,
    "sde-2m": style.BLUE,
    "sde-2m-extra": style.GREEN,
    "sde-2m-even": style.SKY,
    "dpm-2m": style.VERMILION,
    "ddim": style.PURPLE,
}
RACE = {
    "sampler": "sampler",
    "calls": Column("calls"),
    "n": Column("n"),
    "molecules": Column("stable molecules, %", 1, 100),
    "lost": Column("points lost", 2),
    "pairs": Column("pairs"),
    "bar": "bar",
    "atoms": Column("stable atoms, %", 2, 100),
    "valid_unique": Column("valid and unique, %", 1, 100),
    "odd": Column("odd electrons, %", 1, 100),
    "bonds": Column("bond lengths, mÅ", 1, 1000),
}
FINE = {name: RACE[name] for name in ("sampler", "calls", "n", "molecules", "lost")}
BARS = {"sampler": "sampler", "met": "bar met down to", "missed": "more than 1 point lost for certain at"}


@dataclass(frozen=True)
class Task:
    """Validation molecules, spread evenly, at one step of the chain."""

    weights: str
    step: int
    num_molecules: int
    seed: int

    @property
    def files(self) -> list[Path]:
        """Weights and data."""
        return [*weight_files(self.weights), data_path("qm9.npz")]


@asked
def tasks(*, weights: str = "edm_qm9", num_molecules: int = 200, num_points: int = 60, seed: int = 0) -> list[Task]:
    """The same molecules at steps that are dense at both ends of the chain."""
    last = load(weights, fast=False).config.num_steps
    return [Task(weights, int(step), num_molecules, seed) for step in measured_steps(last, num_points)]


def measured_steps(last: int, num_points: int) -> np.ndarray:
    """Steps of 0..last, dense at both ends."""
    half = np.geomspace(1, last / 2, (num_points - 1) // 2)
    return np.unique(np.round(np.concatenate([[0], half, last - half, [last]])).astype(int))


@torch.no_grad()
def measure(task: Task) -> list[dict]:
    """One row: squared error of the predicted clean state, mean over molecules, and that of predicting nothing."""
    edm, molecules = load(task.weights), load_qm9(split="valid", limit=task.num_molecules)
    graph = Graph.from_sizes(torch.from_numpy(molecules.num_atoms))
    positions = graph.centre(torch.from_numpy(molecules.positions).float())
    clean = encode(edm.config, torch.from_numpy(molecules.atomic_numbers), positions)
    noise = draw_noise(graph, edm.config.num_features, generator=generator_from("price", task.seed, task.step))
    noisy = add_noise(clean, noise, edm.log_snr[task.step].expand(len(graph.batch), 1))
    steps = torch.full((graph.num_molecules,), task.step)
    predicted = predict_noise(edm.network, noisy, steps, graph, num_steps=edm.config.num_steps)
    error = squared_error(noise, predicted, graph).mean() * torch.exp(-edm.log_snr[task.step])
    return [{"error": float(error), "blind": float(squared_error(clean, clean.map(torch.zeros_like), graph).mean())}]


def prices(rows: pd.DataFrame, *, num_calls: int) -> pd.DataFrame:
    """Excess of the bound of chains of few steps over one of infinitely many: `chain`, `step` it starts at, `nats`.

    (SNR_s - SNR_t) / 2 e(t) - integral of e / 2 dSNR, with e the squared error of the predicted clean state,
    interpolated in log e between the steps of the rows; a blind step predicts nothing.
    Source: derived here from the bound of Kingma et al. 2021.
    """
    edm = load(rows["weights"].iloc[0], fast=False)
    snr = torch.exp(edm.log_snr).numpy()
    error = np.exp(np.interp(np.arange(len(snr)), rows["step"], np.log(rows["error"])))
    plans = {name: make_plan(edm, sampler, num_calls) for name, sampler in STRIDED.items()}
    blind = float(rows["blind"].iloc[0])
    return pd.concat([price_of(plan, snr, error, blind).assign(chain=name) for name, plan in plans.items()])


def price_of(plan: Plan, snr: np.ndarray, error: np.ndarray, blind: float) -> pd.DataFrame:
    """Steps where a step of the plan starts, and its price; error [T + 1] of the prediction, `blind` of none."""
    pieces = 0.25 * (error[1:] + error[:-1]) * (snr[:-1] - snr[1:])
    integral = np.concatenate([[0.0], np.cumsum(pieces)])  # from step 0 up
    now, after = np.array(plan.steps[:-1]), np.array(plan.steps[1:])
    kept = error[now]
    if plan.blind_start:
        kept[0] = blind
    return pd.DataFrame({"step": now, "nats": 0.5 * (snr[after] - snr[now]) * kept - (integral[now] - integral[after])})


def race(rows: pd.DataFrame) -> pd.DataFrame:
    """Quality of every arm, the points of stable molecules that it loses against the full chain, and the bar.

    Pairs are molecules of both arms with the same size and noise; 95 % bootstrap over them. Negative: more are stable.
    """
    found = chains.quality(rows, reference=load_qm9(split="test"))
    flags = {name: group["stable"].to_numpy(float) for name, group in rows.groupby(chains.ARM, sort=False)}
    calls = found[found["sampler"] == ANCESTRAL.name]["num_calls"].max()
    lines = []
    for name in found[chains.ARM].itertuples(index=False, name=None):
        full, few = flags[name[0], ANCESTRAL.name, calls], flags[name]
        pairs = min(len(full), len(few))
        lost = None if name[1:] == (ANCESTRAL.name, calls) else bootstrap_interval(100 * (full[:pairs] - few[:pairs]))
        lines.append({"lost": lost, "pairs": pairs if lost else None, "bar": "" if lost is None else verdict(lost)})
    return pd.concat([found, pd.DataFrame(lines)], axis=1).sort_values(["sampler", "calls"], ascending=[True, False])


def verdict(lost: Interval) -> str:
    """met, missed, or open: neither the bar nor a loss beyond it is shown by this many molecules."""
    met = lost.value <= LARGEST_LOSS and lost.high <= LARGEST_UPPER_LIMIT
    return "met" if met else "missed" if lost.low > LARGEST_LOSS else "open"


def bars(found: pd.DataFrame) -> pd.DataFrame:
    """The fewest calls at which each sampler meets the bar with no miss at more, and the most at which it misses."""
    lines = []
    for sampler, arms in found[found["bar"] != ""].groupby("sampler", sort=False):
        missed = arms.loc[arms["bar"] == "missed", "calls"].max()
        met = arms.loc[(arms["bar"] == "met") & ~(arms["calls"] <= missed), "calls"].min()
        words = [f"{calls:.0f} calls" if calls == calls else "none" for calls in (met, missed)]
        lines.append({"sampler": sampler, "met": words[0], "missed": words[1]})
    return pd.DataFrame(lines, columns=list(BARS))


def draw_grids(weights: str, *, num_calls: int) -> Figure:
    """Where the calls of a chain lie, in t and in noise per signal."""
    table = load(weights, fast=False).log_snr
    caption = f"Steps visited with {num_calls} network calls; sigma / alpha is the noise in ångström. Nothing random."
    with style.panels(2, width=8.4, height=3.0, caption=caption) as (figure, (left, right)):
        for name, colour in (("even", style.BLACK), ("quadratic", style.BLUE)):
            steps = np.array(grid_steps(len(table) - 1, num_calls, grid=name))
            call = np.arange(1, len(steps) + 1)
            left.plot(call, steps / (len(table) - 1), color=colour, label=name)
            right.plot(call, np.exp(-0.5 * table.numpy()[steps]), color=colour)
        left.set(xlabel="network call", ylabel="time t")
        right.set(xlabel="network call", ylabel="noise σ/α (Å)", yscale="log")
        style.legend_above(left)
    return figure


def draw_price(rows: pd.DataFrame, *, num_calls: int) -> Figure:
    """Error of the prediction along the chain, and what a chain of few steps pays for keeping it within a step."""
    caption = (
        f"Left: squared error of the predicted clean state on {rows['num_molecules'].iloc[0]} validation molecules. "
        f"Right: excess of the bound of ancestral chains of {num_calls} calls, summed from noise to molecule; a "
        "blind first step may even gain."
    )
    with style.panels(2, width=8.4, height=3.0, caption=caption) as (figure, (left, right)):
        left.plot(np.maximum(rows["step"], 0.5), rows["error"], color=style.BLUE, marker="o", ms=3)
        left.set(xscale="log", yscale="log", xlabel="step t", ylabel="squared error of a molecule (Å²)")
        colours = dict(zip(STRIDED, (style.BLACK, style.SKY, style.BLUE), strict=True))
        for name, one in prices(rows, num_calls=num_calls).groupby("chain", sort=False):
            label = f"{name}: {one['nats'].sum():.0f} nats in all"
            right.plot(one["step"], one["nats"].cumsum(), color=colours[name], marker=".", ms=4, lw=1.2, label=label)
        right.set(xscale="log", yscale="log", xlabel="step t", ylabel="excess so far (nats)")
        right.set_ylim(1e-2, None)
        right.invert_xaxis()
        style.legend_above(right, 1)
    return figure


def draw_race(found: pd.DataFrame, samplers: Sequence[str] = tuple(COLOURS)) -> Figure:
    """Stable molecules against network calls, with the full chain as a band."""
    full = found[found["lost"].isna()].iloc[0]
    caption = (
        f"Weights {full['weights']}; {full['n']:,} full chains, others as in the table, from the same sizes and noise. "
        "Bars and band: 95 % intervals."
    )
    with style.panels(width=7.2, height=3.8, caption=caption) as (figure, (axis,)):
        band = full["molecules"].scaled(100.0)
        axis.axhspan(band.low, band.high, color="#dddddd", label=f"full chain, {full['calls']} calls")
        for k, name in enumerate(samplers):
            arms = found[(found["sampler"] == name) & found["lost"].notna()].sort_values("calls")
            shifted = 1.02 ** (k - 3) * arms["calls"]  # side by side, so that no bar hides another
            if len(arms):
                chains.draw_shares(axis, shifted, arms["molecules"], color=COLOURS[name], ms=4, lw=1.3, label=name)
        axis.set(xscale="log", xlabel="network calls of a chain", ylabel="stable molecules (%)", ylim=(0, None))
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
