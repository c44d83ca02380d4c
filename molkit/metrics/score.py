"""All figures of one set of molecules with their intervals: a row of the EDM paper's tables."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from molkit.errors import InvalidInput
from molkit.metrics.stability import StabilityRule, stability
from molkit.metrics.statistics import Interval, proportion_interval, ratio_interval
from molkit.metrics.validity import validity
from molkit.molecule import Molecule, PackedMolecules


@dataclass(frozen=True)
class Score:
    """Shares in [0, 1] with 95 % intervals; validity follows bond distances whatever the stability rule."""

    rule: str
    num_molecules: int
    num_atoms: int
    atom_stability: Interval  # bootstrap over molecules
    molecule_stability: Interval
    validity: Interval
    valid_and_unique: Interval  # distinct / all; depends on the number of molecules
    novelty: Interval | None  # novel / distinct; None without reference
    valid_unique_novel: Interval | None  # novel / all; None without reference
    num_failed: int  # chains that gave no molecule; they count in every denominator, never as a success
    num_not_finite: int
    num_not_perceived: int
    rdkit_version: str

    def as_dict(self) -> dict[str, object]:
        """Plain numbers for JSON."""
        return asdict(self)


def score_molecules(
    molecules: PackedMolecules,
    *,
    rule: StabilityRule = "edm",
    reference: Collection[str] | None = None,
    num_failed: int = 0,
) -> Score:
    """Stability by the given rule, and validity, uniqueness, novelty by bond distances.

    `num_failed` chains that gave no molecule count as molecules of the mean size without a stable atom.

    Raises InvalidInput for no molecules or an element the rule does not know (see `scorable`).
    """
    stable = stability(molecules, rule=rule)
    chemical = validity(molecules, reference_smiles=reference, rule="geom" if rule == "geom" else "qm9")
    count, unique, novel = len(molecules) + num_failed, chemical.num_unique, chemical.num_novel
    lost_atoms = np.full(num_failed, round(float(stable.num_atoms.mean())))
    stable_atoms = np.concatenate([stable.stable_atoms, np.zeros(num_failed, dtype=np.int64)])
    return Score(
        rule=rule,
        num_molecules=count,
        num_atoms=len(molecules.atomic_numbers),
        atom_stability=ratio_interval(stable_atoms, np.concatenate([stable.num_atoms, lost_atoms])),
        molecule_stability=proportion_interval(int(stable.molecule_stable.sum()), count),
        validity=proportion_interval(chemical.num_valid, count),
        valid_and_unique=proportion_interval(unique, count),
        novelty=None if novel is None or not unique else proportion_interval(novel, unique),
        valid_unique_novel=None if novel is None else proportion_interval(novel, count),
        num_failed=num_failed,
        num_not_finite=stable.num_not_finite,
        num_not_perceived=stable.num_not_perceived,
        rdkit_version=chemical.rdkit_version,
    )


def scorable(molecules: Sequence[Molecule], *, rule: StabilityRule) -> tuple[list[int], dict[int, str]]:
    """Rows of the molecules whose elements the rule knows, and row -> reason of the others."""
    elements = sorted({int(number) for molecule in molecules for number in np.unique(molecule.atomic_numbers)})
    unknown = {number: reason for number in elements if (reason := _complaint(number, rule))}
    reasons = {
        row: unknown[bad[0]]
        for row, molecule in enumerate(molecules)
        if (bad := [number for number in molecule.atomic_numbers.tolist() if number in unknown])
    }
    return [row for row in range(len(molecules)) if row not in reasons], reasons


def _complaint(number: int, rule: StabilityRule) -> str:
    """What the rule says about a lone atom of this element, or nothing."""
    try:
        stability(PackedMolecules(np.array([1]), np.array([number]), np.zeros((1, 3))), rule=rule)
    except InvalidInput as error:
        return str(error)
    return ""
