"""Distances to positions: exact recovery, gradients, both searches, mirror images."""

import numpy as np
import pytest
import torch
from cgcf_toys import BUTANOL, batch, generator

from molkit.cgcf.embedding import Stress, embed, minimise, radius_of_gyration
from molkit.cgcf.graph import PairGraph
from molkit.chem.rdkit_tools import embed_smiles
from molkit.errors import InvalidInput
from molkit.geometry import aligned_rmsd

PEPTIDE = "CC(=O)N[C@@H](C)C(=O)N[C@@H](C)C(=O)N[C@@H](C)C(=O)NC"


def real_positions(smiles: str = BUTANOL, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(embed_smiles(smiles, seed=seed)[0].positions)


def complete(num_atoms: int) -> PairGraph:
    """All pairs, as if all were bonded."""
    pairs = torch.triu_indices(num_atoms, num_atoms, 1)
    ones = torch.ones(pairs.shape[1], dtype=torch.long)
    return PairGraph(
        torch.full((num_atoms,), 6), torch.tensor([num_atoms]), pairs, ones, ones, torch.tensor([len(ones)])
    )


def test_all_distances_of_a_real_conformer_give_it_back_up_to_reflection():
    """Test 5: stress below 1e-6. Some starts end in a local minimum; each that does not is the structure itself."""
    positions = real_positions()
    graph = complete(len(positions))
    found = embed(graph, graph.distances(positions)[None].repeat(10, 1), generator=generator())
    good = found.stress < 1e-6
    assert good.sum() >= 5 and found.converged.all()
    for solution in found.positions[good]:
        shapes = [solution.numpy(), (-solution).numpy()]
        assert min(aligned_rmsd(shape, positions.numpy()) for shape in shapes) < 1e-3


def test_the_gradient_of_the_stress_is_that_of_automatic_differentiation():
    graph = batch(BUTANOL)
    distances = 1.0 + torch.rand(2, graph.pairs.shape[1], generator=generator(), dtype=torch.float64)
    positions = torch.randn(2, int(graph.num_atoms), 3, generator=generator(), dtype=torch.float64, requires_grad=True)
    weights = 0.5 ** (graph.hops - 1)
    value = (weights * (graph.distances(positions) - distances).square()).sum(-1)
    (expected,) = torch.autograd.grad(value.sum(), positions)
    found = Stress(graph, distances)(positions.detach().permute(1, 2, 0).numpy())
    np.testing.assert_allclose(found[0], value.detach())
    np.testing.assert_allclose(found[1].transpose(2, 0, 1), expected, atol=1e-12)


def test_the_converged_search_leaves_no_conformer_far_off():
    """Same noisy distances. The published search, kicked about by its constant step, now and then ends far away; the
    medians of the two do not differ."""
    graph, positions = batch(BUTANOL), real_positions()
    distances = graph.distances(positions)[None].repeat(60, 1)
    distances = distances + 0.1 * torch.randn(distances.shape, generator=generator(), dtype=torch.float64)
    ours = embed(graph, distances, generator=generator(1))
    published = embed(graph, distances, generator=generator(1), search="adam", max_iterations=600)
    assert ours.stress.mean() < 0.9 * published.stress.mean() and ours.stress.max() < published.stress.max()
    assert ours.converged.all() and not published.converged.all()


def test_a_search_cut_short_says_so():
    graph = batch(BUTANOL)
    distances = graph.distances(real_positions())[None]
    assert not embed(graph, distances, generator=generator(), max_iterations=3).converged.any()


def test_a_conformer_does_not_feel_the_others():
    graph, many = batch(BUTANOL), torch.arange(6)
    noise = torch.randn(6, graph.pairs.shape[1], generator=generator(), dtype=torch.float64)
    distances = graph.distances(real_positions()) + 0.2 * noise
    start = np.random.default_rng(1).standard_normal((int(graph.num_atoms), 3, 6))
    together = minimise(Stress(graph, distances), start)
    for row in many:
        alone = minimise(Stress(graph, distances[row, None]), start[..., row, None])
        np.testing.assert_allclose(together.value[row, None], alone.value, rtol=1e-5, atol=1e-8)


def test_the_radius_of_gyration_of_two_points():
    assert radius_of_gyration(torch.tensor([[0.0, 0, 0], [2.0, 0, 0]])).item() == pytest.approx(1.0)


def test_what_cannot_be_searched_is_refused():
    graph = batch(BUTANOL)
    distances = torch.ones(1, graph.pairs.shape[1])
    for wrong, message in (
        ({"distances": distances[0]}, "expected distances"),
        ({"distances": distances * float("nan")}, "must be finite"),
        ({"start": torch.zeros(1, 2, 3)}, "expected a start of shape"),
        ({"search": "newton"}, "unknown search 'newton'"),
        ({"graph": batch(BUTANOL, BUTANOL)}, "molecule by molecule"),
    ):
        with pytest.raises(InvalidInput, match=message):
            embed(**{"graph": graph, "distances": distances, "generator": generator()} | wrong)
