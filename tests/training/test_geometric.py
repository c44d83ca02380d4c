"""Molecules as graphs of PyTorch Geometric: what its batches do to them, and what comes back."""

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.nn import SumAggregation

from molkit.errors import InvalidInput
from molkit.graphs import Graph
from molkit.molecule import Molecule
from molkit.training.geometric import from_data, loader, to_data

RANDOM = np.random.default_rng(0)
MOLECULES = [
    Molecule([8], [[0.0, 0.0, 1.0]], spin=2),
    Molecule([8, 1, 1], RANDOM.standard_normal((3, 3))),
    Molecule([7, 1, 1, 1, 1], RANDOM.standard_normal((5, 3)), charge=1),
]


def test_molecules_come_back_from_a_batch_with_charge_and_spin():
    batch = Batch.from_data_list([to_data(one) for one in MOLECULES])
    for one, again in zip(MOLECULES, map(from_data, batch.to_data_list()), strict=True):
        assert again.atomic_numbers.tolist() == one.atomic_numbers.tolist()
        assert (again.charge, again.spin) == (one.charge, one.spin)
        np.testing.assert_allclose(again.positions, one.positions, atol=1e-6)


def test_a_batch_has_the_edges_and_owners_of_our_own_graph_an_atom_alone_among_them():
    batch, graph = Batch.from_data_list(list(map(to_data, MOLECULES))), Graph.from_sizes(torch.tensor([1, 3, 5]))
    assert batch.num_nodes == 9 and batch.batch.tolist() == graph.batch.tolist()
    assert batch.edge_index.tolist() == graph.edge_index.tolist()
    assert batch.charge.tolist() == [0, 0, 1] and batch.spin.tolist() == [2, 0, 0], "not shifted like an index"
    values = torch.arange(9.0)[:, None]
    assert torch.equal(SumAggregation()(values, batch.batch), graph.sum(values))


def test_an_epoch_of_the_loader_shows_every_molecule_once_in_batches_of_so_many_pairs():
    molecules = [MOLECULES[k % 3] for k in range(30)]
    first, again = (loader(molecules, batch_pairs=60, seed=3) for _ in range(2))
    epochs = [list(first), list(first)]
    for epoch in epochs:
        assert sum(batch.num_graphs for batch in epoch) == 30 and len(first) == len(epoch)
        assert max(batch.num_edges for batch in epoch) < 60 + 20
    order = [[batch.z.tolist() for batch in epoch] for epoch in epochs]
    assert order[0] != order[1] and order[0] == [batch.z.tolist() for batch in again]


def test_a_graph_without_positions_is_refused():
    with pytest.raises(InvalidInput, match="z and pos, got z"):
        from_data(Data(z=torch.tensor([1])))
