"""The model without hydrogens: small molecules, down to a single atom."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from molkit.data.qm9 import load_qm9
from molkit.edm.config import EdmConfig
from molkit.edm.diffusion import simple_loss
from molkit.edm.engine import accelerate
from molkit.edm.features import encode
from molkit.edm.likelihood import bound
from molkit.edm.model import build
from molkit.edm.sampling import sample
from molkit.edm.training import load_molecules, read_recipe
from molkit.errors import InvalidInput
from molkit.graphs import Graph
from molkit.molecule import PackedMolecules

RECIPE = read_recipe(Path("edm_qm9_heavy"))
LONE_ATOM = PackedMolecules(np.array([1]), np.array([6]), np.zeros((1, 3)))


@pytest.fixture(scope="module")
def edm():
    return build(EdmConfig(width=16, num_layers=1, elements=RECIPE.model.elements, sizes=RECIPE.model.sizes))


@pytest.fixture(scope="module")
def heavy():
    return load_molecules(replace(RECIPE.data, split="test"), limit=400)


def test_the_recipe_trains_on_centred_heavy_atoms(heavy):
    assert set(np.unique(heavy.atomic_numbers)) <= set(RECIPE.model.elements)
    owner = np.repeat(np.arange(len(heavy)), heavy.num_atoms)
    for column in heavy.positions.T:
        assert np.abs(np.bincount(owner, column)).max() < 1e-4


def test_sizes_and_distances_are_those_of_the_whole_molecules(heavy):
    whole = load_qm9(split="test", limit=400)
    assert heavy.num_atoms.sum() == (whole.atomic_numbers != 1).sum()
    kept = whole[17].positions[whole[17].atomic_numbers != 1]
    difference = heavy[17].positions - kept
    np.testing.assert_allclose(difference, difference[:1].repeat(len(kept), 0), atol=1e-5)


def test_the_histogram_is_the_published_one():
    counts = dict(RECIPE.model.sizes)
    assert sum(counts.values()) == 100_000 and sorted(counts) == list(range(1, 10))


def test_a_molecule_of_hydrogens_alone_is_refused():
    with pytest.raises(InvalidInput, match="no atom but hydrogen"):
        PackedMolecules(np.array([2]), np.array([1, 1]), np.zeros((2, 3))).without_hydrogens()


def test_a_lone_atom_has_a_loss_a_bound_and_samples(edm):
    """A single atom has no positions to diffuse and no neighbours, only its features."""
    graph = Graph.from_sizes(torch.from_numpy(LONE_ATOM.num_atoms))
    clean = encode(edm.config, torch.tensor([6]), torch.zeros(1, 3))
    terms = simple_loss(edm.network, edm.config, edm.log_snr, clean, graph, generator=torch.Generator().manual_seed(0))
    assert bool(terms.loss.isfinite())
    terms = bound(edm, LONE_ATOM, generator=torch.Generator().manual_seed(0))
    assert bool(terms.total.isfinite()) and float(terms.positions) == 0.0


@pytest.mark.parametrize("fast", [False, True])
def test_samples_of_one_atom_lie_at_the_origin(edm, fast):
    network = accelerate(edm.network) if fast else edm.network
    model = replace(edm, network=network)
    with torch.no_grad():
        result = sample(model, torch.tensor([1, 9, 1]), generator=torch.Generator().manual_seed(0), num_calls=5)
    assert result.failed == () and result.molecules.num_atoms.tolist() == [1, 9, 1]
    assert np.abs(result.molecules[0].positions).max() < 1e-6
    assert set(result.molecules.atomic_numbers.tolist()) <= set(RECIPE.model.elements)
