"""One set of molecules, many figures: stability by three conventions, strain, checks of geometry, distributions."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from molkit.chem.pose_checks import pose_checks
from molkit.chem.rdkit_tools import perceive_bonds, smiles_by_distance
from molkit.data.qm9 import load_qm9
from molkit.data.registry import data_path, load_gschnet
from molkit.edm.model import build, load
from molkit.edm.published import num_failed_chains, stored_samples
from molkit.edm.sampling import sample
from molkit.experiments.experiment import Comparison, asked
from molkit.experiments.show import Column, Table, show
from molkit.figures import plots, style
from molkit.figures.view3d import show_grid
from molkit.metrics.distributions import Owned, owned_bond_angles, owned_bond_lengths, wasserstein_over_molecules
from molkit.metrics.formal_charge import score_molecule
from molkit.metrics.stability import stability
from molkit.metrics.statistics import Interval, bootstrap_interval, proportion_interval, ratio_interval
from molkit.metrics.strain import Failure, relax_all
from molkit.metrics.validity import connectedness
from molkit.molecule import Molecule, PackedMolecules
from molkit.rng import generator_from
from molkit.studies.edm.chains import share
from molkit.training.weights import resolve, weight_files

if TYPE_CHECKING:
    from IPython.display import HTML

TEST, TRAIN, GSCHNET, OURS, UNTRAINED = "QM9 test", "QM9 train", "G-SchNet, published", "EDM, stored", "untrained"
COLOURS = {TEST: style.BLACK, GSCHNET: style.ORANGE, OURS: style.MODEL_COLOUR, UNTRAINED: style.SKY}
FLAGS = {"stable": "EDM's rule", "charged": "charges and aromaticity", "accepted": "RDKit"}
KINDS = {  # of disagreement, and the rows it is
    "fail EDM's rule, pass with charges and aromaticity": "charged and not stable",
    "pass EDM's rule, fail with charges and aromaticity": "stable and not charged",
    "are accepted by RDKit and fail EDM's rule": "accepted and not stable",
}
PART, PART_strain, PART_pose = 500, 10, 25
UNTRAINED_CALLS = 20
KEPT_BONDS, KEPT_ANGLES = 4, 3  # kinds, the commonest of the test split
FEWEST = 20  # bonds of a kind behind a distance
CHAOTIC = {"exact": (TEST, GSCHNET, OURS), "by": ("data",)}  # only the untrained network's chains are drawn anew
AUDIT = Comparison(alike={"accepted": 0.3}, **CHAOTIC)
AUDIT_strain = Comparison(within={"energy_drop": 0.05, "rmsd": 0.02})
AUDIT_distances = Comparison(alike={"distance": 0.5}, **CHAOTIC)
LOST = {"num_atoms": 0, "stable_atoms": 0, "charged_atoms": 0} | dict.fromkeys(
    [*FLAGS, "perceived", "connected"], False
)
VERDICTS = {
    "data": "",
    "n": Column("n"),
    "atoms": Column("atoms, EDM's rule", 1, 100),
    "stable": Column("molecules, EDM's rule", 1, 100),
    "charged_atoms": Column("atoms, charges and aromaticity", 1, 100),
    "charged": Column("molecules, charges and aromaticity", 1, 100),
    "accepted": Column("accepted by RDKit", 1, 100),
    "perceived": Column("accepted, bonds perceived", 1, 100),
    "connected": Column("in one piece", 1, 100),
    "disagree": Column("the three disagree", 1, 100),
}
STRAIN = {
    "data": "",
    "n": Column("n"),
    "odd": Column("odd electrons, %", 1, 100),
    "failed": Column("failed, %", 1, 100),
    "unconverged": Column("not converged, %", 1, 100),
    "energy_drop": Column("energy drop, kcal/mol", 1),
    "energy_quartiles": "quartiles",
    "rmsd": Column("RMSD, Å", 3),
    "bonds_changed": Column("bonds changed"),
    "counted": Column("of"),
}


@dataclass(frozen=True)
class Task:
    """Molecules `first` to `first + count` of a spread of `total` over a set."""

    data: str
    weights: str  # whose stored samples, or untrained network, the set is; empty for published sets
    first: int
    count: int
    total: int
    seed: int  # of the untrained network

    @property
    def files(self) -> list[Path]:
        """The set, and what it is compared with."""
        if self.data == OURS:
            return [resolve(self.weights) / "samples.npz", data_path("qm9.npz")]
        own = weight_files(self.weights) if self.data == UNTRAINED else []
        return [*own, data_path("gschnet_samples.npz" if self.data == GSCHNET else "qm9.npz"), data_path("qm9.npz")]


def set_of(data: str, weights: str) -> tuple[PackedMolecules, int]:
    """The whole of a set that is stored, and how many of its chains gave no molecule."""
    if data == OURS:
        return stored_samples(weights), num_failed_chains(weights)
    return (load_gschnet() if data == GSCHNET else load_qm9(split=data.removeprefix("QM9 "))), 0


def molecules_of(task: Task) -> tuple[PackedMolecules, list[int]]:
    """The molecules of a task, and which of its `count` rows they answer; chains that failed answer none."""
    if task.data == UNTRAINED:
        edm = build(load(task.weights, fast=False).config, seed=task.seed)
        generator = generator_from("untrained", task.seed, task.first)
        made = sample(
            edm, edm.draw_sizes(task.count, generator=generator), generator=generator, num_calls=UNTRAINED_CALLS
        )
        return made.molecules, np.delete(np.arange(task.count), list(made.failed)).tolist()
    molecules, lost = set_of(task.data, task.weights)
    spread = np.linspace(0, len(molecules) + lost - 1, task.total).round().astype(int)
    rows = spread[task.first : task.first + task.count]
    there = rows < len(molecules)
    return molecules.select(rows[there]), np.flatnonzero(there).tolist()


def _tasks(sets: dict[str, int], weights: str, seed: int, *, part: int) -> list[Task]:
    """Tasks for a number of molecules of each set, no more than it has."""
    found = []
    for data, wanted in sets.items():
        total = wanted
        if data != UNTRAINED:
            molecules, lost = set_of(data, weights)
            total = min(wanted, len(molecules) + lost)
        own = weights if data in (OURS, UNTRAINED) else ""
        found += [Task(data, own, k, min(part, total - k), total, seed) for k in range(0, total, part)]
    return found


@asked
def tasks(
    *, weights: str = "edm_qm9", num_molecules: int = 10_000, num_untrained: int = 500, seed: int = 0
) -> list[Task]:
    """QM9's test split, G-SchNet's published samples, the stored samples, and those of an untrained network."""
    sets = dict.fromkeys((TEST, GSCHNET, OURS), num_molecules) | {UNTRAINED: num_untrained}
    return _tasks(sets, weights, seed, part=PART)


@asked
def tasks_strain(*, weights: str = "edm_qm9", num_molecules: int = 200) -> list[Task]:
    """The same sets but the untrained one, whose atoms lie on top of each other."""
    return _tasks(dict.fromkeys((TEST, GSCHNET, OURS), num_molecules), weights, 0, part=PART_strain)


@asked
def tasks_pose(
    *, weights: str = "edm_qm9", num_molecules: int = 150, num_untrained: int = 30, seed: int = 0
) -> list[Task]:
    """The sets of `tasks`, for the checks of PoseBusters."""
    sets = dict.fromkeys((TEST, GSCHNET, OURS), num_molecules) | {UNTRAINED: num_untrained}
    return _tasks(sets, weights, seed, part=PART_pose)


@asked
def tasks_distances(
    *, weights: str = "edm_qm9", num_molecules: int = 3000, num_untrained: int = 500, seed: int = 0
) -> list[Task]:
    """Each set in one task, and QM9's training split, whose distance from the test split is the zero of the others."""
    sets = dict.fromkeys((TRAIN, GSCHNET, OURS), num_molecules) | {UNTRAINED: num_untrained}
    return _tasks(sets, weights, seed, part=max(sets.values()))


# ---- verdicts ----


def measure(task: Task) -> list[dict]:
    """A row a molecule: stable atoms and the verdicts of three conventions; a chain that failed fails everywhere."""
    molecules, answered = molecules_of(task)
    rows = [dict(LOST) for _ in range(task.count)]
    for row, found in zip(answered, verdicts_on(molecules) if answered else [], strict=True):
        rows[row] = found
    return [row | {"row": task.first + k} for k, row in enumerate(rows)]


def verdicts_on(molecules: PackedMolecules) -> list[dict]:
    """stable: by EDM's rule; charged: with charges and aromaticity; accepted: RDKit takes the bonds by distance.

    perceived: RDKit finds and accepts bonds of the whole neutral molecule, without an open shell. connected: one piece.
    """
    kept, pieces = stability(molecules, rule="edm"), connectedness(molecules, rule="qm9").in_one_piece
    accepted = smiles_by_distance(molecules)
    rows = []
    for k, molecule in enumerate(molecules):
        charged_atoms, charged, *_ = score_molecule(molecule)
        rows.append(
            {
                "num_atoms": molecule.num_atoms,
                "stable_atoms": int(kept.stable_atoms[k]),
                "charged_atoms": int(charged_atoms),
                "stable": bool(kept.molecule_stable[k]),
                "charged": bool(charged),
                "accepted": accepted[k] is not None,
                "perceived": bool(charged) or perceived(molecule),
                "connected": bool(pieces[k]),
            }
        )
    return rows


def perceived(molecule: Molecule) -> bool:
    """Whether RDKit finds bonds of the neutral closed shell."""
    mol = perceive_bonds(molecule, charge=0).mol
    return mol is not None and not any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())


def verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each set. Atoms: bootstrap over molecules; failed chains count as molecules of the mean size."""
    found = []
    for data, group in rows.groupby("data", sort=False):
        sizes = group["num_atoms"].astype(float)
        sizes = sizes.where(sizes > 0, round(sizes[sizes > 0].mean())).to_numpy()
        line = {"data": data, "n": len(group)} | {name: share(group[name]) for name in [*FLAGS, "perceived"]}
        flags = group[list(FLAGS)].astype(bool)
        line |= {"connected": share(group["connected"]), "disagree": share(flags.any(axis=1) & ~flags.all(axis=1))}
        for name, column in (("atoms", "stable_atoms"), ("charged_atoms", "charged_atoms")):
            line[name] = ratio_interval(group[column].to_numpy(float), sizes)
        found.append(line)
    return pd.DataFrame(found)


def patterns(rows: pd.DataFrame) -> pd.Series:
    """Share of each combination of the three verdicts, by set and combination."""
    found = {}
    for data, group in rows.groupby("data", sort=False):
        seen = group[list(FLAGS)].astype(bool).value_counts().to_dict()
        for pattern in product((True, False), repeat=len(FLAGS)):
            found[data, pattern] = proportion_interval(int(seen.get(pattern, 0)), len(group))
    return pd.Series(found)


def draw_patterns(rows: pd.DataFrame, *, caption: str) -> Figure:
    """How often the three verdicts agree."""
    frame = patterns(rows).unstack(sort=False).rename_axis("data").reset_index()
    marks = [pattern for pattern in frame.columns if pattern != "data"]
    heads = {one: Column("\n".join("pass" if flag else "fail" for flag in one), factor=100.0) for one in marks}
    told = f"{' / '.join(FLAGS.values())} (top to bottom)"
    return plots.bars(frame, "data", heads, colours=COLOURS, ylabel="molecules (%)", xlabel=told, caption=caption)


def examples(
    rows: pd.DataFrame, kind: str, *, count: int = 6, told: str = "the first molecules that {}."
) -> "HTML | Table":
    """The first stored molecules of one of the `KINDS` of disagreement, or a line that says there is none."""
    ours = rows[rows["data"] == OURS].astype(dict.fromkeys(FLAGS, bool)).query(KINDS[kind]).head(count)
    if ours.empty:
        return show(pd.DataFrame({"kind": [f"No molecule: {kind}."]}), {"kind": ""}, f"{OURS}: molecules that {kind}")
    kept = [molecules_of(Task(OURS, one.weights, one.row, 1, one.total, 0))[0][0] for one in ours.itertuples()]
    return show_grid(kept, caption=f"{OURS}: {told.format(kind)}", columns=min(count, 4))


# ---- strain ----


def measure_strain(task: Task) -> list[dict]:
    """A row a molecule: what GFN2-xTB takes out of it (kcal/mol, angstrom), and what became of the relaxation."""
    molecules, answered = molecules_of(task)
    nothing = {"energy_drop": None, "rmsd": None, "bonds_changed": False, "stable": False, "odd": False}
    rows = [nothing | {"outcome": "failed"} for _ in range(task.count)]
    kept = stability(molecules).molecule_stable if answered else []
    outcomes = relax_all(list(molecules)) if answered else []
    for row, molecule, stable, found in zip(answered, molecules, kept, outcomes, strict=True):
        odd = bool(molecule.atomic_numbers.sum() % 2)
        rows[row] |= {"stable": bool(stable), "odd": odd, "outcome": "odd" if odd else "failed"}
        if isinstance(found, Failure) or odd:
            continue
        rows[row]["outcome"] = "relaxed" if found.converged else "unconverged"
        if found.converged:
            numbers = {"energy_drop": round(found.energy_drop, 4), "rmsd": round(found.rmsd, 4)}
            rows[row] |= numbers | {"bonds_changed": bool(found.bonds_changed)}
    return rows


def strains(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each set, and one for those stored molecules that EDM's rule calls stable; medians of the relaxed."""
    groups = [(data, group) for data, group in rows.groupby("data", sort=False)]
    stable = rows[(rows["data"] == OURS) & rows["stable"].astype(bool)]
    found = []
    for data, group in [*groups, *([(f"{OURS}, stable ones", stable)] if len(stable) else [])]:
        line = {"data": data, "n": len(group)}
        line |= {name: share(group["outcome"] == name) for name in ("odd", "failed", "unconverged")}
        done = group[group["outcome"] == "relaxed"]
        line |= {"counted": len(done), "bonds_changed": int(done["bonds_changed"].sum())}
        for name in ("energy_drop", "rmsd"):
            values = done[name].to_numpy(float)
            line[name] = bootstrap_interval(values, statistic=np.median) if len(values) else None
        low, high = done["energy_drop"].astype(float).quantile([0.25, 0.75]) if len(done) else (np.nan, np.nan)
        found.append(line | {"energy_quartiles": f"{low:.1f} – {high:.1f}" if len(done) else None})
    return pd.DataFrame(found)


# ---- checks of geometry ----


def measure_pose(task: Task) -> list[dict]:
    """A row a molecule: PoseBusters' checks by name, empty where no bonds were found, and whether all are passed."""
    molecules, answered = molecules_of(task)
    rows = [{"checks": None, "passed": False} for _ in range(task.count)]
    for row, molecule in zip(answered, molecules, strict=True):
        found = pose_checks(molecule)
        if found is not None:
            rows[row] = {"checks": [f"{name}={int(good)}" for name, good in found.items()]}
            rows[row]["passed"] = all(found.values())
    return rows


def poses(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each check, a column for each set: shares of the molecules whose bonds were found; the last of all."""
    table: dict[str, dict[str, Interval | int]] = {}
    for data, group in rows.groupby("data", sort=False):
        known = group["checks"].dropna()
        table.setdefault("no bonds found, so not checked, %", {})[data] = share(group["checks"].isna())
        passed = pd.DataFrame([dict(one.split("=") for one in checks) for checks in known])
        for name in passed.columns:
            table.setdefault(name.replace("_", " "), {})[data] = share(passed[name] == "1")
        table.setdefault("~", {})[data] = share(group["passed"])
    table["all checks passed, of all molecules"] = table.pop("~")
    return pd.DataFrame([{"check": name} | line for name, line in table.items()])


# ---- distributions ----


def measure_distances(task: Task) -> list[dict]:
    """A row for each common kind of bond and angle: Wasserstein distance to as many molecules of the test split.

    Interval: bootstrap over the molecules of the set, as the bonds of one molecule are not independent.
    """
    molecules, _ = molecules_of(task)
    reference, rows = load_qm9(split="test", limit=task.total if task.data != UNTRAINED else None), []
    for function, unit, number in ((owned_bond_lengths, "Å", KEPT_BONDS), (owned_bond_angles, "°", KEPT_ANGLES)):
        truth, found = function(reference), function(molecules)
        for kind in list(truth)[:number]:
            rows.append({"kind": f"{kind} ({unit})"} | _distance(found.get(kind), truth[kind], len(molecules)))
    return rows


def _distance(values: Owned | None, truth: Owned, num_molecules: int) -> dict[str, float | None]:
    if values is None or len(values.values) < FEWEST:
        return {"distance": None, "low": None, "high": None}
    found = wasserstein_over_molecules(values, truth, num_molecules=num_molecules)
    return {"distance": float(found.value), "low": float(found.low), "high": float(found.high)}


def distances(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each kind of bond and angle, a column for each set; the first is what two samples of QM9 differ by."""
    cells = [
        None if pd.isna(value) else Interval(value, low, high)
        for value, low, high in rows[["distance", "low", "high"]].to_numpy(float)
    ]
    wide = rows.assign(cell=cells).pivot(index="kind", columns="data", values="cell")
    wide = wide.loc[rows["kind"].unique(), rows["data"].unique()].astype(object)
    return wide.where(wide.notna(), None).reset_index()


def columns(frame: pd.DataFrame, digits: int, factor: float = 1.0) -> dict[str, Column]:
    """How a table with a column for each set is shown: the first column as labels."""
    first, *sets = frame.columns
    return {first: Column("")} | {name: Column(name, digits, factor) for name in sets}
