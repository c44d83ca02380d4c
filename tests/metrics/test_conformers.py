import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem, rdMolAlign

from molkit.chem import conformer_rmsd
from molkit.chem.bond_graph import mol_with_conformers
from molkit.chem.conformer_rmsd import heavy_pairs, rmsd_matrix, self_matches
from molkit.errors import InvalidInput
from molkit.geometry import random_rotations
from molkit.metrics.conformers import ScoreTask, diversity, score_conformers, score_of_distances
from molkit.metrics.distributions import distance_mmd, mmd, two_of


def conformers(smiles: str, count: int = 6, seed: int = 1) -> tuple[Chem.Mol, np.ndarray]:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMultipleConfs(mol, count, randomSeed=seed)
    return mol, np.stack([one.GetPositions() for one in mol.GetConformers()])


def moved(positions: np.ndarray, seed: int = 0) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    turns = random_rotations(len(positions), generator=generator, dtype=torch.float64).numpy()
    shifts = np.random.default_rng(seed).normal(size=(len(positions), 1, 3))
    return positions @ turns + shifts


@pytest.mark.parametrize(
    "smiles", ["CCCO", "OC(=O)CC(N)=O", "Cc1ccccc1CC(C)(C)C", "C[N+](=O)[O-]", "NC(=N)NCCC(=O)[O-]"]
)
@pytest.mark.parametrize("symmetry", ["graph", "conjugated"])
def test_rmsd_is_that_of_rdkit(smiles, symmetry):
    mol, positions = conformers(smiles)
    plain = Chem.RemoveHs(mol_with_conformers(mol, positions))
    ours = rmsd_matrix(mol, positions, positions[:3], symmetry=symmetry)
    for row in range(len(positions)):
        for column in range(3):
            theirs = rdMolAlign.GetBestRMS(
                Chem.Mol(plain), plain, row, column, symmetrizeConjugatedTerminalGroups=symmetry == "conjugated"
            )
            assert ours[row, column] == pytest.approx(theirs, abs=2e-4 if row == column else 1e-6)


SYMMETRIC = [
    "C(COC(C)(C)C)(COC(C)(C)C)(COC(C)(C)C)COC(C)(C)C",
    "C(O[Si](C)(C)C)(O[Si](C)(C)C)(O[Si](C)(C)C)O[Si](C)(C)C",
]


def shaken(smiles: str, count: int) -> tuple[Chem.Mol, np.ndarray]:
    """One conformer, and copies of it whose atoms are moved far and numbered otherwise: ends and arms changed round."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1, useRandomCoords=True)
    positions, random = mol.GetConformer().GetPositions(), np.random.default_rng(0)
    matches, rows = self_matches(mol), np.arange(mol.GetNumAtoms())
    copies = []
    for _ in range(count):
        order = rows.copy()
        order[matches[0]] = matches[random.integers(len(matches))]
        copies.append(positions[order] + random.normal(scale=0.6, size=positions.shape))
    return mol, np.stack(copies)


@pytest.mark.parametrize("smiles", SYMMETRIC)
def test_rmsd_is_that_of_rdkit_beyond_ten_thousand_self_matches(smiles):
    mol, positions = shaken(smiles, 3)
    assert len(self_matches(mol)) == conformer_rmsd.MAX_MATCHES
    plain = Chem.RemoveHs(mol_with_conformers(mol, positions))
    found = conformer_rmsd.best_rmsd(mol, positions[:1], positions)
    for column in (1, 2):
        theirs = rdMolAlign.GetBestRMS(Chem.Mol(plain), plain, 0, column, symmetrizeConjugatedTerminalGroups=False)
        assert found.exact and found.values[0, column] == pytest.approx(theirs, abs=1e-6)
    assert found.values[0, 0] < 1e-6


@pytest.mark.parametrize(
    "smiles",
    ["FC(F)(F)C(F)(F)C(F)(F)C(F)(F)F", "CC(C)(C)C(Cl)(Cl)OS(F)(F)(F)(F)F", "CC(C)(C)OC(=O)N(C)C(C)(C)C", "FC(F)(F)F"],
)
@pytest.mark.parametrize("symmetry", ["graph", "conjugated"])
def test_taking_ends_apart_finds_what_trying_every_way_finds(smiles, symmetry, monkeypatch):
    mol, positions = shaken(smiles, 4)
    wanted = rmsd_matrix(mol, positions, positions, symmetry=symmetry)
    monkeypatch.setattr(conformer_rmsd, "MAX_MATCHES", len(self_matches(mol, symmetry=symmetry)))
    found = conformer_rmsd.best_rmsd(mol, positions, positions, symmetry=symmetry)
    assert found.exact
    np.testing.assert_allclose(found.values, wanted, atol=1e-6)


def test_an_upper_bound_is_said_to_be_one(monkeypatch):
    mol, positions = shaken(SYMMETRIC[0], 3)
    score = score_conformers(ScoreTask(mol, positions[:1], positions[1:], 0.5))
    assert not score.upper_bound
    monkeypatch.setattr(conformer_rmsd, "MAX_CORE_MATCHES", 2)
    bound = score_conformers(ScoreTask(mol, positions[:1], positions[1:], 0.5))
    assert bound.upper_bound
    assert bound.mat_recall >= score.mat_recall
    monkeypatch.setattr(conformer_rmsd, "MAX_CORE_MATCHES", 100_000)
    monkeypatch.setattr(conformer_rmsd, "MAX_BRANCHES", 1)
    monkeypatch.setattr(conformer_rmsd, "_climb", lambda base, groups: -np.inf)
    assert not conformer_rmsd.best_rmsd(mol, positions[:1], positions[1:]).exact


def test_symmetry_options_differ_where_they_should():
    nitro, _ = conformers("C[N+](=O)[O-]", 1)
    assert [len(self_matches(nitro, symmetry=name)) for name in ("none", "graph", "conjugated")] == [1, 1, 2]
    ring, _ = conformers("c1ccccc1", 1)
    assert len(self_matches(ring)) == 12


def test_a_mirror_image_is_another_conformer():
    mol, positions = conformers("CCCC(C)O", 1)
    assert rmsd_matrix(mol, positions, positions * [1, 1, -1])[0, 0] > 0.1


def test_a_set_covers_itself_also_when_moved():
    mol, positions = conformers("CCCCO")
    score = score_conformers(ScoreTask(mol, positions, moved(positions), 0.01))
    assert score.cov_recall == score.cov_precision == 1.0
    assert max(score.mat_recall, score.mat_precision) < 1e-6


def test_recall_and_precision_by_hand():
    mol, positions = conformers("CCCCO", 5)
    rmsd = rmsd_matrix(mol, positions[:3], positions[2:])
    score = score_conformers(ScoreTask(mol, positions[:3], positions[2:], 1e-3))
    assert score.cov_recall == pytest.approx(1 / 3) and score.cov_precision == pytest.approx(1 / 3)
    assert score.mat_recall == pytest.approx(rmsd.min(1).mean()) and score.mat_precision == pytest.approx(
        rmsd.min(0).mean()
    )


def test_failures_are_counted_and_cover_nothing():
    mol, positions = conformers("CCCCO", 4)
    broken = np.full_like(positions, np.nan)
    good, bad = (score_conformers(ScoreTask(mol, positions, one, 0.5, num_wanted=8)) for one in (positions, broken))
    assert (good.num_failed, bad.num_failed, bad.num_generated) == (4, 8, 0)
    assert (good.cov_recall, bad.cov_recall) == (1.0, 0.0) and np.isnan(bad.cov_precision) and np.isnan(bad.mat_recall)


@pytest.mark.parametrize("wrong", [{"threshold": 0.0}, {"symmetry": "some"}, {"references": np.zeros((0, 3, 3))}])
def test_wrong_questions_are_refused(wrong):
    mol, positions = conformers("CCO", 2)
    task = {"mol": mol, "references": positions, "generated": positions, "threshold": 0.5} | wrong
    with pytest.raises(InvalidInput):
        score_conformers(ScoreTask(**task))


def test_diversity_of_copies_is_nothing():
    mol, positions = conformers("CCCCO", 1)
    assert diversity(mol, moved(np.repeat(positions, 3, axis=0)))[0] < 1e-6
    with pytest.raises(InvalidInput):
        diversity(mol, positions)


def test_mmd_of_a_set_with_itself_is_nothing_and_of_far_ones_near_its_limit():
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 3))
    assert mmd(x, x) == pytest.approx(0.0, abs=1e-12)
    assert mmd(np.ones(5), np.ones(7)) == 0.0
    two_points = mmd(np.zeros(1), np.ones(1))  # b = 1: two means of 5, across sum of exp(-2^-q)
    assert two_points == pytest.approx(10.0 - 2.0 * sum(np.exp(-(2.0**-q)) for q in range(-2, 3)))


def test_mmd_agrees_with_plain_loops():
    random = np.random.default_rng(1)
    x, y = random.normal(size=(4, 2)), random.normal(1.0, size=(3, 2))
    pooled = np.concatenate([x, y])
    squares = np.array([[sum((a - b) ** 2) for b in pooled] for a in pooled])
    width = squares.sum() / (49 - 7)
    kernel = lambda a, b: sum(np.exp(-sum((a - b) ** 2) / (width * 2.0**q)) for q in range(-2, 3))  # noqa: E731
    mean = lambda s, t: np.mean([[kernel(a, b) for b in t] for a in s])  # noqa: E731
    assert mmd(x, y) == pytest.approx(mean(x, x) + mean(y, y) - mean(x, y) - mean(y, x))


def test_distance_mmd_ignores_rigid_motion_and_knows_both_rules():
    mol, positions = conformers("CCC(C)O")
    found = distance_mmd(mol, positions, moved(positions))
    assert np.abs(found.single).max() < 1e-9 and found.all < 1e-9
    edges = heavy_pairs(mol)
    published, complete = two_of(edges, "published"), two_of(edges, "complete")
    count = edges.shape[1]
    assert len(complete) == count * (count - 1) // 2
    assert [two for two in complete if edges[0, two[0]] == edges[0, two[1]]] == [
        t for t in complete if t not in published
    ]


def test_heavy_pairs_are_the_topological_distances_cut_at_three():
    mol, _ = conformers("CCCCCC", 1)
    hops = Chem.GetDistanceMatrix(mol)
    assert {(int(i), int(j)) for i, j in heavy_pairs(mol).T} == {
        (i, j) for i in range(6) for j in range(i + 1, 6) if hops[i, j] <= 3
    }


def test_recall_asks_the_references_and_precision_the_generated_conformers():
    score = score_of_distances(np.array([0.1, 0.9]), np.array([0.1, 0.2, 0.9, 1.0]), 2, 1, 0.25)
    assert (score.cov_recall, score.cov_precision) == (0.5, 0.5)
    score = score_of_distances(np.array([0.1, 0.9]), np.array([0.1, 0.7, 0.9, 1.1]), 2, 1, 0.25)
    assert (score.cov_recall, score.cov_precision) == (0.5, 0.25)
    assert score.mat_recall == pytest.approx(0.5) and score.mat_precision == pytest.approx(0.7)
    assert (score.num_references, score.num_generated, score.num_failed) == (2, 4, 1)
