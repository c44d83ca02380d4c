"""Complete graphs over the real atoms of a batch, and batches of them."""

import itertools

import torch

from molkit.graphs import Graph, batch_vector, fully_connected, remove_mean, split_by_pairs, sum_per_molecule


def test_edges_are_all_ordered_pairs_inside_molecules():
    sizes = torch.tensor([3, 1, 2, 4])
    expected, first = [], 0
    for size in sizes.tolist():
        expected += list(itertools.permutations(range(first, first + size), 2))
        first += size
    found = list(map(tuple, fully_connected(sizes).T.tolist()))
    assert found == sorted(expected)  # sorted by receiver


def test_single_atoms_have_no_edges():
    assert fully_connected(torch.tensor([1, 1])).shape == (2, 0)


def test_sums_and_means_stay_inside_molecules():
    batch = batch_vector(torch.tensor([2, 1, 3]))
    assert batch.tolist() == [0, 0, 1, 2, 2, 2]
    values = torch.arange(18.0).reshape(6, 3)
    assert sum_per_molecule(values, batch, 3)[:, 0].tolist() == [3.0, 6.0, 36.0]
    centred = remove_mean(values, batch, 3)
    assert sum_per_molecule(centred, batch, 3).abs().max() == 0.0
    torch.testing.assert_close(centred[0] - centred[1], values[0] - values[1])


def test_last_molecules_without_edges_are_kept():
    graph = Graph.from_sizes(torch.tensor([3, 1]))
    assert graph.num_molecules == 2
    assert graph.sum(torch.ones(4, 1)).flatten().tolist() == [3.0, 1.0]


def test_batches_keep_the_order_and_the_budget():
    sizes = torch.tensor([3, 29, 5, 5, 1, 18, 2])
    groups = split_by_pairs(sizes, 30)
    assert torch.cat(groups).tolist() == list(range(7))
    pairs = [(sizes[group] * (sizes[group] - 1)).sum().item() for group in groups]
    assert all(cost <= 30 or len(group) == 1 for cost, group in zip(pairs, groups, strict=True))
    assert len(split_by_pairs(sizes, 10**9)) == 1
    assert split_by_pairs(torch.zeros(0, dtype=torch.long), 30) == []
