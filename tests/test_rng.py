"""Generators made from names and counters."""

import torch

from molkit.rng import fork, generator_from


def draw(generator: torch.Generator) -> float:
    return torch.rand(1, generator=generator, dtype=torch.float64).item()


def test_every_part_of_the_key_matters_and_nothing_else_does():
    keys = [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 10), (0, 1), ("epoch", 0, 0), (1, 11), (11, 1)]
    values = [draw(generator_from(*key)) for key in keys]
    assert len(set(values)) == len(values)
    assert values == [draw(generator_from(*key)) for key in keys]


def test_forked_generators_are_independent_of_each_other_and_advance_their_parent():
    parent = torch.Generator().manual_seed(0)
    first, second = fork(parent, 3), fork(parent, 3)
    values = [draw(generator) for generator in (*first, *second)]
    assert len(set(values)) == 6
    again = torch.Generator().manual_seed(0)
    assert [draw(generator) for generator in fork(again, 2)] == values[:2]


def test_the_global_generator_is_never_touched():
    before = torch.random.get_rng_state()
    draw(generator_from("a", 1))
    fork(torch.Generator().manual_seed(0), 4)
    assert torch.equal(before, torch.random.get_rng_state())
