"""One set of molecules, many figures: stability by three conventions, strain, checks of geometry, distributions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from molkit.chem.bond_orders import packed_bonds
from molkit.chem.pose_checks import pose_checks
from molkit.chem.rdkit_tools import perceive_bonds, smiles_by_distance
from molkit.data.qm9 import load_qm9
from molkit.data.registry import load_gschnet
from molkit.edm.model import build, load
from molkit.edm.published import num_failed_chains, stored_samples
from molkit.edm.sampling import sample
from molkit.farm.engines import engine
from molkit.metrics.distributions import Owned, owned_bond_angles, owned_bond_lengths, wasserstein_over_molecules
from molkit.metrics.formal_charge import score_molecule
from molkit.metrics.stability import stability
from molkit.metrics.statistics import Interval, proportion_interval, ratio_interval
from molkit.metrics.strain import StrainResult, relax_all, summary
from molkit.molecule import Molecule, PackedMolecules
from molkit.studies.edm_evaluation import spread

FLAGS = ("EDM's rule", "charges and aromaticity", "accepted by RDKit")
UNTRAINED_CALLS = 20
OURS = "EDM, trained here"


@dataclass(frozen=True, eq=False)
class Conventions:
    """Verdicts on every molecule of a set."""

    label: str
    molecules: PackedMolecules
    atoms_edm: Interval
    atoms_charged: Interval
    flags: np.ndarray  # [B, 3] bool: stable by EDM's rule, stable with charges and aromaticity, accepted by RDKit
    perceived: np.ndarray  # [B] bool: RDKit finds and accepts bonds of the whole neutral molecule, no open shell
    connected: np.ndarray  # [B] bool: one piece, by the distance rule
    num_failed: int = 0  # chains that gave no molecule; they fail everywhere

    @property
    def num_molecules(self) -> int:
        """Molecules asked for."""
        return len(self.flags) + self.num_failed

    def share(self, flags: np.ndarray) -> Interval:
        """Share of molecules with the flag, chains that gave none among the denominator."""
        return proportion_interval(int(flags.sum()), self.num_molecules)

    @property
    def disagreement(self) -> Interval:
        """Share of molecules on which the three verdicts are not all the same."""
        return self.share(self.flags.any(axis=1) & ~self.flags.all(axis=1))

    def patterns(self) -> dict[tuple[bool, bool, bool], Interval]:
        """Share of each combination of the three verdicts."""
        codes = self.flags @ np.array([4, 2, 1])
        counts = np.bincount(codes, minlength=8)
        counts[0] += self.num_failed
        return {
            (bool(code & 4), bool(code & 2), bool(code & 1)): proportion_interval(int(counts[code]), self.num_molecules)
            for code in range(7, -1, -1)
        }


@dataclass(frozen=True)
class PoseChecks:
    """Share of molecules that pass each check, of those whose bonds were found."""

    label: str
    num_molecules: int
    num_not_perceived: int
    shares: dict[str, Interval]
    all_passed: Interval  # of all molecules; those without bonds do not pass


@dataclass(frozen=True)
class KindDistance:
    """Wasserstein distance of one kind of bond or angle to held-back molecules."""

    kind: str
    unit: str
    distances: dict[str, Interval | None]  # label -> distance; None where the kind does not occur


def sets(weights: str, *, count: int, num_untrained: int, seed: int) -> dict[str, PackedMolecules]:
    """Label -> molecules: QM9's test split, G-SchNet's published samples, ours, and those of an untrained network."""
    edm = load(weights)
    fresh = replace(build(edm.config, seed=seed), name="untrained")
    generator = torch.Generator().manual_seed(seed)
    noise = sample(
        fresh, edm.draw_sizes(num_untrained, generator=generator), generator=generator, num_calls=UNTRAINED_CALLS
    )
    return {
        "QM9 test": load_qm9(split="test", limit=count),
        "G-SchNet, published samples": spread(load_gschnet(), count),
        OURS: spread(stored_samples(weights), count),
        "EDM, untrained": noise.molecules,
    }


def judge(weights: str, chosen: dict[str, PackedMolecules]) -> list[Conventions]:
    """The verdicts on every set; where all of our samples are scored, the chains that failed count too."""
    whole = len(chosen[OURS]) == len(stored_samples(weights))
    failed = {OURS: num_failed_chains(weights) if whole else 0}
    return [conventions(label, molecules, num_failed=failed.get(label, 0)) for label, molecules in chosen.items()]


def conventions(label: str, molecules: PackedMolecules, *, num_failed: int = 0) -> Conventions:
    """The verdicts of three conventions on every molecule."""
    edm = stability(molecules, rule="edm")
    charged = [score_molecule(molecule) for molecule in molecules]
    atoms = np.array([entry[0] for entry in charged])
    accepted = np.array([text is not None for text in smiles_by_distance(molecules)])
    flags = np.stack([edm.molecule_stable, np.array([entry[1] for entry in charged]), accepted], axis=1)
    lost = np.zeros(num_failed, dtype=np.int64)
    sizes = np.concatenate([edm.num_atoms, lost + round(float(edm.num_atoms.mean()))])
    return Conventions(
        label,
        molecules,
        ratio_interval(np.concatenate([edm.stable_atoms, lost]), sizes),
        ratio_interval(np.concatenate([atoms, lost]), sizes),
        flags,
        perceived(molecules, known=flags[:, 1]),
        connected(molecules),
        num_failed,
    )


def perceived(molecules: PackedMolecules, *, known: np.ndarray) -> np.ndarray:
    """Whether RDKit finds bonds of the neutral closed shell, [B] bool; the `known` ones have them."""
    found = known.copy()
    for row in np.flatnonzero(~known).tolist():
        mol = perceive_bonds(molecules[row], charge=0).mol
        found[row] = mol is not None and not any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
    return found


def connected(molecules: PackedMolecules) -> np.ndarray:
    """Whether the bonds by distance join all atoms of a molecule, [B] bool."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    bonds, total = packed_bonds(molecules, rule="qm9"), len(molecules.atomic_numbers)
    graph = coo_array((np.ones(len(bonds.first)), (bonds.first, bonds.second)), shape=(total, total))
    _, pieces = connected_components(graph, directed=False)
    lowest = np.minimum.reduceat(pieces, molecules.ptr[:-1])
    return lowest == np.maximum.reduceat(pieces, molecules.ptr[:-1])


def disagreements(found: Conventions, *, count: int) -> dict[str, list[Molecule]]:
    """The first molecules on which two conventions disagree, by kind of disagreement."""
    edm, charged, accepted = found.flags.T
    kinds = {
        "fail EDM's rule, pass with charges and aromaticity": ~edm & charged,
        "pass EDM's rule, fail with charges and aromaticity": edm & ~charged,
        "accepted by RDKit, fail EDM's rule": accepted & ~edm,
    }
    return {kind: [found.molecules[int(row)] for row in np.flatnonzero(rows)[:count]] for kind, rows in kinds.items()}


def strains(chosen: dict[str, PackedMolecules], *, count: int, workers: int) -> dict[str, StrainResult]:
    """Strain of `count` molecules of every set but the untrained one, whose atoms lie on top of each other.

    A last row holds those of ours that EDM's rule calls stable: what is left of the strain when the bonds are right.
    """
    found = {}
    with engine(workers, apart=True) as executor:
        for label, molecules in chosen.items():
            if label == "EDM, untrained":
                continue
            few = spread(molecules, count)
            outcomes = relax_all(list(few), executor=executor)
            found[label] = summary(few, outcomes)
            stable = np.flatnonzero(stability(few).molecule_stable)
            if label == OURS and len(stable):
                found[f"{OURS}, stable ones"] = summary(few.select(stable), [outcomes[row] for row in stable])
    return found


def poses(label: str, molecules: Sequence[Molecule]) -> PoseChecks:
    """PoseBusters' checks of every molecule."""
    found = [pose_checks(molecule) for molecule in molecules]
    known = [entry for entry in found if entry is not None]
    names = list(known[0]) if known else []
    shares = {name: proportion_interval(sum(entry[name] for entry in known), len(known)) for name in names}
    passed = sum(all(entry.values()) for entry in known)
    return PoseChecks(label, len(found), len(found) - len(known), shares, proportion_interval(passed, len(found)))


def kind_distances(
    chosen: dict[str, PackedMolecules], *, count: int, num_bonds: int = 4, num_angles: int = 3
) -> list[KindDistance]:
    """Distances of the commonest bonds and angles to the test split, with what two halves of QM9 differ by.

    `count` molecules of each set; the first row of labels is that zero: training molecules against test molecules.
    Intervals: bootstrap over the molecules of a set, because the bonds of one molecule are not independent.
    """
    reference = load_qm9(split="test", limit=count)
    others = {"QM9 train (zero)": load_qm9(split="train", limit=count)}
    others |= {label: spread(molecules, count) for label, molecules in chosen.items() if label != "QM9 test"}
    rows = []
    for function, unit, number in ((owned_bond_lengths, "Å", num_bonds), (owned_bond_angles, "°", num_angles)):
        truth = function(reference)
        found = {label: function(molecules) for label, molecules in others.items()}
        for kind in list(truth)[:number]:
            distances = {
                label: _distance(values.get(kind), truth[kind], len(others[label])) for label, values in found.items()
            }
            rows.append(KindDistance(kind, unit, distances))
    return rows


def _distance(values: Owned | None, truth: Owned, num_molecules: int) -> Interval | None:
    if values is None or len(values.values) < 20:
        return None
    return wasserstein_over_molecules(values, truth, num_molecules=num_molecules)
