"""What the chapter on the ETM computes: the bridge, what each part learned, and what the tilt does to conformers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from molkit.cgcf.bridge import bridge
from molkit.cgcf.conformer_set import Batcher
from molkit.cgcf.conformers import draw_distances
from molkit.cgcf.datasets import graph_of, qm9_minima
from molkit.cgcf.embedding import Search, embed
from molkit.cgcf.energy import AllPairs, EnergyNetwork
from molkit.cgcf.energy_training import load_energy, read_energy_recipe
from molkit.cgcf.graph import PairGraph, collate
from molkit.cgcf.model import Cgcf, load_flow
from molkit.cgcf.refinement import POLISH, Walk, refine
from molkit.cgcf.templates import UNIT
from molkit.chem.bond_graph import graph_mol
from molkit.chem.xtb import XtbEnergy
from molkit.errors import CalculationFailed, InvalidInput
from molkit.metrics.statistics import Interval, bootstrap_interval
from molkit.molecule import Molecule
from molkit.rng import generator_from
from molkit.studies.method_orders import record_order
from molkit.training.weights import resolve
from molkit.units import EV_TO_KCAL

CLOSE = {(1, 1): 1.8, (1, 0): 2.1, (0, 0): 2.6}  # angstrom: nearer than this is a clash; 1 stands for hydrogen
SEARCHES: dict[str, Search] = {"converged search": "lbfgs", "published search": "adam"}


@dataclass(frozen=True)
class Level:
    """A level of the bridge: root mean square deviation of the bond lengths from the data's, angstrom."""

    share: float
    deviation: Interval


@dataclass(frozen=True, eq=False)
class Curves:
    """Share told apart [K, M] at training steps [K], for the M pairs of neighbours of the bridge."""

    steps: np.ndarray
    told_apart: np.ndarray
    shares: tuple[float, ...]  # 0, those of the bridge, 1


@dataclass(frozen=True, eq=False)
class Tilted:
    """Conformers of one molecule before and after the walk on the tilt, [C, A, 3] angstrom, and its minimum [A, 3]."""

    name: str
    search: str
    graph: PairGraph
    minimum: np.ndarray
    before: np.ndarray
    after: np.ndarray
    energy_before: np.ndarray  # E_phi, [C]
    energy_after: np.ndarray


@dataclass(frozen=True)
class TiltRow:
    """Before or after, over molecules: bonds, clashes, energies."""

    search: str
    stage: str
    num_molecules: int
    num_conformers: int
    spread: Interval  # of bond lengths within a molecule, angstrom
    error: Interval  # mean absolute deviation of bond lengths from the minimum, angstrom
    clashes: Interval  # pairs of atoms more than three bonds apart and too near, a conformer
    tilt: Interval  # E_phi
    xtb_kcal: Interval | None  # GFN2-xTB above the minimum's geometry; median over a molecule's conformers
    xtb_failed: int


@dataclass(frozen=True)
class NoiseRow:
    """One kind of walk on one molecule."""

    kind: str
    target: str
    start: float  # mean of the target
    end: float
    spread: float  # of bond lengths, angstrom
    clipped: float


def bridge_levels(weights: str, energy: str, *, num_molecules: int, seed: int) -> list[Level]:
    """Bond lengths along the bridge of the energy's recipe, on held-back minima."""
    model, data = load_flow(weights), qm9_minima("valid", limit=num_molecules)
    shares, batcher, found = bridge_shares(energy)[1:-1], Batcher(data), []
    for row, graph in enumerate(data.graphs):
        positions = batcher.positions(torch.tensor([row]))[None].double()
        batch = collate([graph])
        made = bridge(model, batch, positions, shares, generator=generator_from("levels", seed, row))
        gap = lengths(batch, made) - lengths(batch, positions)[:, None]
        found.append(gap.square().mean((0, 2)).sqrt().numpy())
    return [Level(share, bootstrap_interval(np.array(found)[:, k])) for k, share in enumerate((*shares, 1.0))]


def bridge_shares(energy: str) -> tuple[float, ...]:
    """0 (data), the shares of the energy's recipe, 1 (flow)."""
    return (0.0, *read_energy_recipe(resolve(energy) / "recipe.yaml").bridge, 1.0)


def curves(energy: str) -> Curves:
    """How well each part of the energy told its two levels apart while it was trained; stored with the weights."""
    lines = (resolve(energy) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if "told_apart_0" in row]
    if not rows:
        raise InvalidInput(f"{energy}: no learning curve of an energy beside these weights")
    shares = bridge_shares(energy)
    told = np.array([[row[f"told_apart_{k}"] for k in range(len(shares) - 1)] for row in rows])
    return Curves(np.array([row["step"] for row in rows]), told, shares)


@dataclass(frozen=True)
class SpringRow:
    """A spring: its ends as element symbols with numbers, bonds between them, length and width of its Gaussian."""

    ends: str
    hops: int
    length: float  # angstrom
    width: float | None  # angstrom; None where the stiffness of all levels together is not positive


def springs_of(energy: str, smiles: str) -> list[SpringRow]:
    """The springs that an energy gives a molecule; bonds and angles between heavy atoms, then the first to hydrogen.

    exp(-E) of a spring is a Gaussian of variance 1 / (2 stiffness). Raises InvalidInput for an energy without springs.
    """
    mol = graph_mol(smiles)
    found = load_energy(energy).springs(collate([graph_of(mol)]))
    if found is None:
        raise InvalidInput(f"{energy}: this energy has no springs")
    names = [f"{atom.GetSymbol()}{atom.GetIdx() + 1}" for atom in mol.GetAtoms()]
    bonded = {frozenset((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())) for bond in mol.GetBonds()}
    stiffness = UNIT * found.stiffness.sum(-1)
    rows = []
    for (first, second), length, stiff in zip(found.pairs.T.tolist(), found.lengths, stiffness, strict=True):
        width = float((0.5 / stiff).sqrt()) if stiff > 0.0 else None
        hops = 1 if frozenset((first, second)) in bonded else 2
        rows.append(SpringRow(f"{names[first]}–{names[second]}", hops, float(length), width))
    heavy = [row for row in rows if "H" not in row.ends]
    return heavy + [row for row in rows if row not in heavy][:4]


def tilt_molecules(
    weights: str, energy: str, *, num_molecules: int, count: int, search: str, seed: int, settings: Walk = POLISH
) -> list[Tilted]:
    """`count` conformers of held-back QM9 molecules by one search, before and after the walk."""
    if search not in SEARCHES:
        raise InvalidInput(f"unknown search {search!r}: expected {' or '.join(SEARCHES)}")
    model, network = load_flow(weights), load_energy(energy, flow=weights)
    data = qm9_minima("valid", limit=num_molecules)
    batcher, found = Batcher(data), []
    for row, (graph, name) in enumerate(zip(data.graphs, data.names, strict=True)):
        batch, generator = collate([graph]), generator_from("tilt", seed, name)
        distances = draw_distances(model.flow, batch, count, generator=generator)
        before = embed(batch, distances, generator=generator, search=SEARCHES[search]).positions
        minimum = batcher.positions(torch.tensor([row])).double().numpy()
        found.append(_tilted(model, network, batch, before, settings, generator, (name, search, minimum)))
    return found


def _tilted(
    model: Cgcf,
    network: EnergyNetwork,
    graph: PairGraph,
    before: torch.Tensor,
    settings: Walk,
    generator: torch.Generator,
    about: tuple[str, str, np.ndarray],
) -> Tilted:
    name, search, minimum = about
    after = refine(model.flow, network, graph, before.float(), settings, generator=generator).positions.double()
    with torch.no_grad():
        tilts = [network(graph, one.float()).squeeze(-1).double().numpy() for one in (before, after)]
    return Tilted(name, search, graph, minimum, before.numpy(), after.numpy(), *tilts)


def tilt_rows(found: Sequence[Tilted], *, num_energies: int) -> list[TiltRow]:
    """Both stages over the molecules; GFN2-xTB energies of the first `num_energies` conformers of each."""
    rows = []
    for stage in ("before", "after"):
        sets = [getattr(one, stage) for one in found]
        energies = [xtb_above(one, positions[:num_energies]) for one, positions in zip(found, sets, strict=True)]
        known = [float(np.median(values[np.isfinite(values)])) for values in energies if np.isfinite(values).any()]
        bonds = [lengths(one.graph, torch.from_numpy(at)) for one, at in zip(found, sets, strict=True)]
        targets = [lengths(one.graph, torch.from_numpy(one.minimum)) for one in found]
        rows.append(
            TiltRow(
                found[0].search,
                stage,
                len(found),
                sum(map(len, sets)),
                spread=_over([float(bond.std(0, correction=0).mean()) for bond in bonds]),
                error=_over([float((bond - to).abs().mean()) for bond, to in zip(bonds, targets, strict=True)]),
                clashes=_over([clashes(one.graph, at) for one, at in zip(found, sets, strict=True)]),
                tilt=_over([float(getattr(one, f"energy_{stage}").mean()) for one in found]),
                xtb_kcal=_over(known) if len(known) > 1 else None,
                xtb_failed=int(sum((~np.isfinite(values)).sum() for values in energies)),
            )
        )
    return rows


def clash_change(found: Sequence[Tilted], weights: str, *, seconds: float = 0.0) -> Interval:
    """Clashes of a conformer after less before the walk, mean over molecules; recorded as a claim."""
    change = _over([clashes(one.graph, one.after) - clashes(one.graph, one.before) for one in found])
    record_order("clashes", change, n=len(found), seconds=seconds, weights=weights)
    return change


def xtb_above(one: Tilted, positions: np.ndarray) -> np.ndarray:
    """GFN2-xTB energies [C] of conformers above the geometry of the minimum, kcal/mol; NaN where there is none."""
    energy = XtbEnergy(Molecule(one.graph.atomic_numbers.numpy(), one.minimum))
    lowest = energy(one.minimum).energy
    values = np.full(len(positions), np.nan)
    for row, conformer in enumerate(positions):
        try:
            values[row] = (energy(conformer).energy - lowest) * EV_TO_KCAL
        except CalculationFailed:
            continue
    return values


def lengths(graph: PairGraph, positions: torch.Tensor) -> torch.Tensor:
    """Bond lengths [..., K] of positions [..., A, 3] of one molecule."""
    first, second = graph.pairs[:, graph.hops == 1]
    return (positions[..., first, :] - positions[..., second, :]).norm(dim=-1)


def clashes(graph: PairGraph, positions: np.ndarray) -> float:
    """Mean number, over conformers [C, A, 3], of pairs more than three bonds apart and nearer than in `CLOSE`."""
    pairs = AllPairs.of(graph)
    first, second = pairs.pairs[:, pairs.types == 0].numpy()
    light = (graph.atomic_numbers == 1).long().numpy()
    near = np.array([CLOSE[max(a, b), min(a, b)] for a, b in zip(light[first], light[second], strict=True)])
    gap = np.linalg.norm(positions[:, first] - positions[:, second], axis=-1)
    return float((gap < near).sum(axis=1).mean())


def walks(weights: str, energy: str, smiles: str, *, count: int, num_steps: int, seed: int) -> list[NoiseRow]:
    """Short walks on E_phi - log p_flow with noise times 0, 0.1 and 1, and on E_phi alone, from the same conformers."""
    model, network = load_flow(weights), load_energy(energy, flow=weights)
    graph, generator = collate([graph_of(graph_mol(smiles))]), generator_from("walks", seed)
    start = embed(graph, draw_distances(model.flow, graph, count, generator=generator), generator=generator)
    rows = []
    for weight, scale in ((0.0, 0.0), (1.0, 0.0), (1.0, 0.1), (1.0, 1.0)):
        settings = replace(POLISH, num_steps=num_steps, noise_scale=scale, log_weight=weight)
        again = generator_from("walk", seed)
        found = refine(model.flow, network, graph, start.positions.float(), settings, generator=again)
        spread = float(lengths(graph, found.positions).std(0, correction=0).mean())
        target = "E − log p" if weight else "E alone"
        ends = (float(found.energies[0].mean()), float(found.energies[-1].mean()))
        rows.append(NoiseRow(found.kind, target, *ends, spread, found.clipped))
    return rows


def _over(values: Sequence[float]) -> Interval:
    return bootstrap_interval(np.array(values))
