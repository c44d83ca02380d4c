"""All figures of one set of molecules with their intervals: a row of the EDM paper's tables."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from molkit.chem.rdkit_tools import rdkit_version
from molkit.chem.text_files import write_atomically
from molkit.data.qm9 import FILES, REFERENCE_SMILES, load_qm9, load_reference_smiles
from molkit.data.registry import listed_checksums
from molkit.errors import InvalidInput
from molkit.metrics.stability import StabilityRule, charge_complaint, stability
from molkit.metrics.statistics import Interval, proportion_interval, ratio_interval
from molkit.metrics.validity import connectedness, validity
from molkit.molecule import Molecule, PackedMolecules

QM9_TEST = Path(__file__).resolve().parents[2] / "data" / "studies" / "qm9_test_score.json"


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
    num_in_pieces: int | None = None  # molecules that no bonds hold together, whatever the rule says of them
    num_overlapping: int | None = None  # with two atoms closer than 0.5 angstrom; they count as unstable

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

    Raises InvalidInput for no molecules, or an element or a charge the rule does not know (see `scorable`).
    """
    stable = stability(molecules, rule=rule)
    joined = connectedness(molecules, rule="geom" if rule == "geom" else "qm9")
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
        num_in_pieces=int((~joined.in_one_piece).sum()),
        num_overlapping=stable.num_overlapping,
    )


def scorable(molecules: Sequence[Molecule], *, rule: StabilityRule) -> tuple[list[int], dict[int, str]]:
    """Rows of the molecules whose elements and charge the rule knows, and row -> reason of the others."""
    elements = sorted({int(number) for molecule in molecules for number in np.unique(molecule.atomic_numbers)})
    unknown = {number: reason for number in elements if (reason := _complaint(number, rule))}
    reasons = {
        row: unknown[bad[0]]
        for row, molecule in enumerate(molecules)
        if (bad := [number for number in molecule.atomic_numbers.tolist() if number in unknown])
    }
    for row, molecule in enumerate(molecules):
        if complaint := charge_complaint(molecule.charge, rule):
            reasons.setdefault(row, complaint)
    return [row for row in range(len(molecules)) if row not in reasons], reasons


def _complaint(number: int, rule: StabilityRule) -> str:
    """What the rule says about a lone atom of this element, or nothing."""
    try:
        stability(PackedMolecules(np.array([1]), np.array([number]), np.zeros((1, 3))), rule=rule)
    except InvalidInput as error:
        return str(error)
    return ""


def score_of_qm9_test(rule: StabilityRule, *, path: Path = QM9_TEST) -> Score:
    """The score of QM9's test molecules: the stored one where it was made from these data by this RDKit, or made now.

    `store_qm9_test` wrote the file; a test makes it again and compares. Raises DataNotFound where there are no data.
    """
    made_from = _origin()
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if stored.get("made_from") == made_from and rule in stored.get("scores", {}):
        values = stored["scores"][rule]
        return Score(**{key: Interval(**one) if isinstance(one, dict) else one for key, one in values.items()})
    return _scored_qm9_test(rule)


def store_qm9_test(path: Path = QM9_TEST) -> None:
    """Score QM9's test molecules by every rule and write the file that `score_of_qm9_test` reads."""
    scores = {rule: _scored_qm9_test(rule).as_dict() for rule in get_args(StabilityRule)}
    write_atomically(path, json.dumps({"made_from": _origin(), "scores": scores}, indent=1) + "\n")


def _scored_qm9_test(rule: StabilityRule) -> Score:
    reference = load_reference_smiles().smiles
    return score_molecules(load_qm9(split="test"), rule=rule, reference=reference)


def _origin() -> dict[str, str]:
    """SHA-256 of the data behind the score, and the version of RDKit."""
    listed = listed_checksums()
    return {name: listed.get(name, "") for name in (FILES["packed"], REFERENCE_SMILES)} | {"rdkit": rdkit_version()}
