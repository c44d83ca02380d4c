"""Conformers of a molecule: distances from the flow, positions from them, handedness, ETM and force field."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from molkit.cgcf.datasets import graph_of
from molkit.cgcf.embedding import Embedding, Search, embed, radius_of_gyration
from molkit.cgcf.energy import EnergyNetwork
from molkit.cgcf.flow import Flow, sample_distances
from molkit.cgcf.graph import PairGraph, collate
from molkit.cgcf.handedness import embed_handed
from molkit.cgcf.model import Cgcf
from molkit.cgcf.refinement import POLISH, Walk, refine
from molkit.cgcf.solver import Solver
from molkit.chem.bond_graph import (
    StereoRules,
    graph_mol,
    is_inverted,
    mol_with_conformers,
    stereo_agrees,
    stereo_rules,
)
from molkit.chem.ensembles import EnsembleRules, distinct_rows
from molkit.chem.rdkit_conformers import (
    FORCE_FIELD_STEPS,
    Method,
    force_field_of,
    rdkit_conformers,
    relax_conformers,
)
from molkit.chem.rdkit_tools import molecule_from_rdkit
from molkit.chem.sdf import sdf_record
from molkit.chem.xtb import XtbEnergy
from molkit.errors import CalculationFailed, InvalidInput

Stereo = Literal["ignore", "mirror", "redraw"]
CACHE_NUMBERS = 2**19  # pair features in one call: more of them leave the processor's cache
MAX_ROUNDS = 20  # of redrawing
COMMAND_STEPS = 2000  # of the force field where its minima are told apart and ranked
FIELDS = ("positions", "stress", "converged", "stereo_agrees", "origin")  # what a conformer has one of


@dataclass(frozen=True, eq=False)
class Conformers:
    """Conformers [C, A, 3] (angstrom) of one molecule, and how they came about.

    stereo_agrees [C]: whether every specified centre and double bond is as the SMILES says (True where none is).
    """

    smiles: str
    mol: Any  # RDKit's molecule with explicit hydrogens
    positions: np.ndarray
    stress: np.ndarray  # [C] angstrom^2
    converged: np.ndarray  # [C] bool, of the search for positions
    stereo_agrees: np.ndarray
    origin: np.ndarray  # [C] how the first positions came about: "cgcf", or a method of RDKit
    num_mirrored: int = 0
    num_drawn: int = 0  # conformers made to get these; more where wrong stereo was drawn again
    num_duplicates: int = 0  # left out, since another one is the same minimum
    energies: Mapping[str, np.ndarray] = field(default_factory=dict)  # [C] by method, NaN where there is none

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def radius_of_gyration(self) -> np.ndarray:
        """Of each conformer, [C], angstrom."""
        return radius_of_gyration(torch.from_numpy(self.positions)).numpy()

    def select(self, rows: np.ndarray) -> "Conformers":
        """The conformers at the given rows, or where a mask is true."""
        kept = {name: getattr(self, name)[rows] for name in FIELDS}
        return replace(self, energies={name: found[rows] for name, found in self.energies.items()}, **kept)


def generate(
    model: Cgcf,
    smiles: str,
    count: int,
    *,
    generator: torch.Generator,
    search: Search = "lbfgs",
    stereo: Stereo = "mirror",
    solver: Solver | None = None,
    mol: Any = None,
    energy: EnergyNetwork | None = None,
    walk: Walk = POLISH,
    relax: bool = False,
    max_iterations: int = FORCE_FIELD_STEPS,
) -> Conformers:
    """`count` conformers of a SMILES, hydrogens explicit; `mol` is the same molecule with its atoms in another order.

    Distances are drawn and put into positions; with an `energy` the positions then follow it (`tilted`), and `relax`
    lets a force field have them (`relaxed`). stereo: "ignore" leaves all as they fell; "mirror" reflects those whose
    centres are all inverted (no double bond changes by that); "redraw" searches for positions of the right handedness,
    reflects, throws away what is wrong then or after a later stage and draws again, up to 20 times as many. Fewer may
    come out then. Raises InvalidInput for a SMILES that the model cannot treat, and what the stages raise.
    """
    if count < 1:
        raise InvalidInput(f"the number of conformers must be at least 1, got {count}")
    if stereo not in get_args(Stereo):
        raise InvalidInput(f"unknown stereo {stereo!r}: expected {', '.join(get_args(Stereo))}")
    mol = graph_mol(smiles) if mol is None else mol
    require_known(model, mol, smiles)
    graph, rules = collate([graph_of(mol)]), stereo_rules(mol)
    options, redraw = {"generator": generator, "search": search}, stereo == "redraw"

    def one_round(number: int) -> Conformers:
        distances = draw_distances(model.flow, graph, number, generator=generator, solver=solver)
        placed = embed_handed(graph, distances, rules, **options) if redraw else embed(graph, distances, **options)
        found = _reflected(smiles, mol, rules, placed, stereo)
        found = found.select(found.stereo_agrees) if redraw else found
        if energy is not None:
            found = tilted(found, model, energy, generator=generator, settings=walk)
        found = relaxed(found, max_iterations=max_iterations) if relax else found
        return found.select(found.stereo_agrees) if redraw else found

    rounds = [one_round(count)]
    while redraw and (missing := count - sum(map(len, rounds))) > 0:
        if sum(one.num_drawn for one in rounds) >= MAX_ROUNDS * count:
            break
        rounds.append(one_round(min(count, 2 * missing)))
    return joined(rounds).select(slice(0, count))


def require_known(model: Cgcf, mol: Any, smiles: str) -> None:
    """Raise InvalidInput for elements that the model never saw, or unpaired electrons."""
    numbers = {atom.GetAtomicNum() for atom in mol.GetAtoms()}
    known = set(model.config.elements or range(1, model.config.table_rows))
    if numbers - known:
        symbols = sorted({atom.GetSymbol() for atom in mol.GetAtoms() if atom.GetAtomicNum() not in known})
        raise InvalidInput(f"{smiles!r}: {model.name} was trained without {', '.join(symbols)}; use other weights")
    if any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
        raise InvalidInput(f"{smiles!r} has unpaired electrons; {model.name} knows closed shells only")


def _reflected(smiles: str, mol: Any, rules: StereoRules, placed: Embedding, stereo: Stereo) -> Conformers:
    """One round of conformers, mirrored where asked."""
    positions, turn = placed.positions.numpy(), np.zeros(len(placed.positions), dtype=bool)
    if stereo != "ignore":
        turn = is_inverted(rules, positions)
        positions = np.where(turn[:, None, None], positions * np.array([1.0, 1.0, -1.0]), positions)
    right, origin = _is_right(rules, positions), np.full(len(positions), "cgcf")
    how = (placed.stress.numpy(), placed.converged.numpy(), right, origin, int(turn.sum()), len(positions))
    return Conformers(smiles, mol, positions, *how)


def by_rdkit(smiles: str, mol: Any, count: int, *, method: Method = "etkdgv3", seed: int = 0) -> Conformers:
    """Conformers of RDKit's distance geometry, their stereo looked up; none where it finds no geometry."""
    try:
        positions = rdkit_conformers(mol, count, method=method, seed=seed)
    except CalculationFailed:
        positions = np.zeros((0, mol.GetNumAtoms(), 3))
    right, fine = _is_right(stereo_rules(mol), positions), np.ones(len(positions), dtype=bool)
    origin = np.full(len(positions), method, dtype="<U8")
    return Conformers(smiles, mol, positions, np.zeros(len(positions)), fine, right, origin, num_drawn=count)


def with_stereo_checked(conformers: Conformers) -> Conformers:
    """The conformers with `stereo_agrees` as their positions are now."""
    return replace(conformers, stereo_agrees=_is_right(stereo_rules(conformers.mol), conformers.positions))


def _is_right(rules: StereoRules, positions: np.ndarray) -> np.ndarray:
    """Whether all stereo of conformers [C, A, 3] is as specified, [C]."""
    centres, double_bonds = stereo_agrees(rules, positions)
    return centres.all(axis=1) & double_bonds.all(axis=1)


def draw_distances(
    flow: Flow, graph: PairGraph, count: int, *, generator: torch.Generator, solver: Solver | None = None
) -> Tensor:
    """`count` draws of the distances of one molecule, [count, P], one per pair; in parts that fit the cache."""
    at_once = max(4, CACHE_NUMBERS // max(1, graph.pairs.shape[1] * flow.config.width))
    sizes = [min(at_once, count - first) for first in range(0, count, at_once)]
    return torch.cat([sample_distances(flow, graph, size, generator=generator, solver=solver) for size in sizes])


def joined(parts: Sequence[Conformers]) -> Conformers:
    """Several rounds of one molecule as one."""
    together = {name: np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS}
    energies = {name: np.concatenate([part.energies[name] for part in parts]) for name in parts[0].energies}
    names = ("num_mirrored", "num_drawn", "num_duplicates")
    counts = {name: sum(getattr(part, name) for part in parts) for name in names}
    return replace(parts[0], energies=energies, **together, **counts)


def tilted(
    conformers: Conformers,
    model: Cgcf,
    energy: EnergyNetwork,
    *,
    generator: torch.Generator,
    settings: Walk = POLISH,
) -> Conformers:
    """The conformers after a walk on the tilted energy; whether their stereo is right is looked up again."""
    if not len(conformers):
        return conformers
    start = torch.from_numpy(conformers.positions).float()
    found = refine(model.flow, energy, collate([graph_of(conformers.mol)]), start, settings, generator=generator)
    return with_stereo_checked(replace(conformers, positions=found.positions.double().numpy()))


def relaxed(conformers: Conformers, *, max_iterations: int = FORCE_FIELD_STEPS) -> Conformers:
    """The conformers after MMFF94 (200 iterations, as in the paper's FF rows), with its energies `mmff94_kcal`.

    UFF and `uff_kcal` where MMFF94 lacks parameters. Whether their stereo is right is looked up again. Raises
    InvalidInput where UFF lacks them too.
    """
    field = force_field_of(conformers.mol)
    positions, energies, _ = relax_conformers(
        conformers.mol, conformers.positions, max_iterations=max_iterations, field=field
    )
    energies = {**conformers.energies, f"{field}_kcal": energies}
    return with_stereo_checked(replace(conformers, positions=positions, energies=energies))


def distinct(conformers: Conformers) -> Conformers:
    """The different minima among relaxed conformers, the lowest of the force field first (`distinct_rows`).

    A conformer whose energy is not finite is left out. Molecules of hydrogen alone have one.
    """
    mol, values = conformers.mol, conformers.energies[f"{force_field_of(conformers.mol)}_kcal"]
    finite = np.isfinite(values)
    if mol.GetNumHeavyAtoms():
        rules = EnsembleRules()
        energies = np.where(finite, values, np.inf)
        rows = distinct_rows(mol, conformers.positions, energies, rules, rules.same_field_energy)
    else:
        rows = np.argsort(values)[: int(finite.any())]
    return replace(conformers.select(rows), num_duplicates=int(finite.sum()) - len(rows))


def ranked(conformers: Conformers) -> Conformers:
    """Sorted by the GFN2-xTB energy of each conformer as it is, `gfn2_xtb_ev`; those without one come last, as NaN."""
    if not len(conformers):
        return conformers
    mol = mol_with_conformers(conformers.mol, conformers.positions[:1])
    energy = XtbEnergy(molecule_from_rdkit(mol))
    values = np.array([_energy_or_nan(energy, positions) for positions in conformers.positions])
    return replace(conformers, energies={**conformers.energies, "gfn2_xtb_ev": values}).select(np.argsort(values))


def _energy_or_nan(energy: XtbEnergy, positions: np.ndarray) -> float:
    try:
        return energy(positions).energy
    except CalculationFailed:
        return float("nan")


def sdf_lines(conformers: Conformers) -> list[str]:
    """One SDF record a conformer, with the bonds of the SMILES; origin, stress, stereo and energies as data fields.

    `..._kcal_above_lowest` is the energy above the lowest of these conformers. RDKit's own have no stress.
    """
    mol = mol_with_conformers(conformers.mol, conformers.positions)
    records = []
    for row in range(len(conformers)):
        origin = str(conformers.origin[row])
        fields = {"stereo_agrees": float(conformers.stereo_agrees[row])}
        fields |= {"stress_angstrom2": conformers.stress[row]} if origin == "cgcf" else {}
        for name, values in conformers.energies.items():
            fields |= {name: values[row]} if np.isfinite(values[row]) else {}
            if name.endswith("_kcal") and np.isfinite(values[row]):
                fields[f"{name}_above_lowest"] = values[row] - np.nanmin(values)
        molecule = molecule_from_rdkit(mol, conformer=row, name=conformers.smiles)
        one = mol_with_conformers(conformers.mol, conformers.positions[row, None])
        records.append(sdf_record(replace(molecule, properties=fields), one, "", {"origin": origin}))
    return records
