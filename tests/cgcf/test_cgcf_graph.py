"""The extended graph against RDKit's topological distances, and its batches."""

import numpy as np
import pytest
import torch
from cgcf_toys import BUTANOL, CUBANE, CYCLOPROPANE, ETHANOL, batch, extended
from rdkit import Chem

from molkit.cgcf.conformer_set import Batcher, ConformerSet
from molkit.cgcf.graph import collate, extended_graph
from molkit.chem.bond_graph import graph_mol
from molkit.errors import InvalidInput

MOLECULES = [BUTANOL, ETHANOL, CYCLOPROPANE, CUBANE, "c1ccccc1C(=O)O", "C#CC1CN1", "[H][H]", "OC1C2CC1C2"]


@pytest.mark.parametrize("smiles", MOLECULES)
def test_pairs_are_those_within_three_bonds(smiles):
    """An independent program: RDKit's topological distance matrix, cut at 3."""
    steps = Chem.GetDistanceMatrix(graph_mol(smiles)).astype(int)
    first, second = np.nonzero(np.triu((steps <= 3) & (steps > 0)))
    graph = extended(smiles)
    assert graph.pairs.tolist() == [first.tolist(), second.tolist()]
    assert graph.hops.tolist() == steps[first, second].tolist()


def test_types_are_bond_types_then_angles_and_dihedrals():
    graph = extended("C=CC#N")
    by_hop = {hop: set(graph.types[graph.hops == hop].tolist()) for hop in (1, 2, 3)}
    assert by_hop == {1: {1, 2, 3}, 2: {23}, 3: {24}}
    aromatic = extended("c1ccccc1")
    assert set(aromatic.types[aromatic.hops == 1].tolist()) == {1, 12}


def test_fragments_are_not_joined():
    graph = extended_graph(np.array([1, 1, 8, 1]), np.array([[0, 1, 1], [2, 3, 1]]))
    assert graph.pairs.tolist() == [[0, 2], [1, 3]]


@pytest.mark.parametrize(
    ("smiles", "directed"), [(BUTANOL, 138), ("CC(C)Cc1ccc(cc1)C(C)C(=O)O", 336), ("COCCc1ccc(OCC(O)CNC(C)C)cc1", 440)]
)
def test_sizes_are_those_of_the_published_code(smiles, directed):
    assert 2 * batch(smiles).pairs.shape[1] == directed


def test_a_wrong_bond_is_refused():
    with pytest.raises(InvalidInput, match="bonds name atoms 0..5, there are 2"):
        extended_graph(np.array([1, 1]), np.array([[0, 5, 1]]))
    with pytest.raises(InvalidInput, match="bond types must be"):
        extended_graph(np.array([1, 1]), np.array([[0, 1, 30]]))


def test_batches_gathered_by_rows_equal_batches_made_one_by_one():
    graphs = [extended(smiles) for smiles in (ETHANOL, BUTANOL, CYCLOPROPANE)]
    random = np.random.default_rng(0)
    data = ConformerSet.of(graphs, [random.normal(size=(2, graph.num_atoms, 3)) for graph in graphs])
    rows = torch.tensor([5, 0, 3, 3])
    batcher = Batcher(data)
    found, expected = batcher.graph(rows), collate([graphs[k] for k in (2, 0, 1, 1)])
    for name in ("atomic_numbers", "num_atoms", "pairs", "types", "hops", "num_pairs"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name
    starts = torch.cat([torch.zeros(1, dtype=torch.long), data.num_atoms.cumsum(0)])
    alone = torch.cat([data.positions[starts[row] : starts[row + 1]] for row in rows])
    assert torch.equal(batcher.positions(rows), alone)
