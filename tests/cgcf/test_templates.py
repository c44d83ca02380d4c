"""Springs from the graph: symmetry, forces, the log-ratio of two Gaussians, and what they learn."""

import numpy as np
import pytest
import torch
from cgcf_toys import BUTANOL, ETHANOL, batch, extended, generator

from molkit.cgcf.conformer_set import ConformerSet
from molkit.cgcf.energy import EnergyConfig, EnergyNetwork, nce_loss
from molkit.cgcf.energy_training import EnergyTask, load_energy, save_energy
from molkit.cgcf.graph import collate
from molkit.cgcf.refinement import Walk, walk
from molkit.cgcf.templates import UNIT, Springs, between
from molkit.chem.bond_graph import graph_mol
from molkit.chem.rdkit_conformers import rdkit_conformers
from molkit.errors import InvalidInput
from molkit.geometry import random_rotations


def sprung(num_levels: int = 2, *, loud: bool = True) -> EnergyNetwork:
    config = EnergyConfig(
        width=16, num_blocks=1, num_gaussians=12, cutoff=6.0, template_width=16, num_levels=num_levels
    )
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        network = EnergyNetwork(config).double()
        if loud:
            for layer in (network.last, network.templates.stiffness, network.templates.offset):
                torch.nn.init.normal_(layer.weight)
    return network


def somewhere(graph, seed: int = 0) -> torch.Tensor:
    return 1.5 * torch.randn(len(graph.atomic_numbers), 3, generator=generator(seed), dtype=torch.float64)


def test_springs_do_not_feel_motion_reflection_and_order():
    network, graph = sprung(), batch(BUTANOL, ETHANOL)
    positions = somewhere(graph)
    energy = network.parts(graph, positions)
    rotation = random_rotations(1, generator=generator(3), dtype=torch.float64)[0]
    for other in (positions @ rotation.T + 2.0, -positions):
        torch.testing.assert_close(network.parts(graph, other), energy, rtol=1e-9, atol=1e-9)
    swapped = network.parts(batch(ETHANOL, BUTANOL), torch.cat([positions[15:], positions[:15]]))
    torch.testing.assert_close(swapped.flip(0), energy, rtol=1e-9, atol=1e-9)
    stacked = network.parts(graph, torch.stack([positions, 1.1 * positions]))
    torch.testing.assert_close(stacked[0], energy, rtol=1e-9, atol=1e-9)


def test_atoms_in_another_order_have_the_same_springs():
    network, graph = sprung(), extended(ETHANOL)
    order = np.random.default_rng(0).permutation(9)  # new atom k was atom order[k]
    place = np.argsort(order)
    pairs = np.sort(place[graph.pairs], axis=0)
    rows = np.lexsort((pairs[1], pairs[0]))
    turned = type(graph)(graph.atomic_numbers[order], pairs[:, rows], graph.types[rows], graph.hops[rows])
    positions = somewhere(collate([graph]))
    expected = network(collate([graph]), positions)
    torch.testing.assert_close(network(collate([turned]), positions[order]), expected, rtol=1e-9, atol=1e-9)


def test_forces_with_springs_are_the_numerical_gradient():
    network, graph = sprung(), batch(ETHANOL)
    positions = somewhere(graph).requires_grad_()
    (found,) = torch.autograd.grad(network(graph, positions).sum(), positions)
    for atom, axis in ((0, 0), (3, 1), (8, 2)):
        step = torch.zeros_like(positions)
        step[atom, axis] = 1e-5
        slope = (network(graph, positions + step) - network(graph, positions - step)) / 2e-5
        assert slope.item() == pytest.approx(found[atom, axis].item(), rel=1e-4)


def test_one_spring_by_hand():
    """Stiffness 2 and offset 0.3 at a stretch of 0.5 angstrom: 2 UNIT / 4 - 0.3."""
    springs = Springs(
        torch.tensor([[0], [1]]),
        torch.tensor([0]),
        torch.tensor([1.0]),
        torch.tensor([[2.0]]),
        torch.tensor([[0.3]]),
        1,
    )
    positions = torch.tensor([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0]])
    assert springs.energies(positions).item() == pytest.approx(0.5 * UNIT - 0.3)
    assert springs.misfit(positions).item() == pytest.approx(0.5)


def test_only_atoms_bonded_to_both_ends_lie_between():
    """Water: the oxygen lies between the hydrogens and nothing between bonded atoms."""
    graph = batch("O")
    near = graph.pairs
    found = between(graph, near[0], near[1])
    assert [row.nonzero().flatten().tolist() for row in found] == [[], [], [0]]


def test_an_untrained_network_with_springs_starts_at_two_ln_two():
    network = sprung(loud=False)
    parts = network.parts(batch(ETHANOL), somewhere(batch(ETHANOL)))
    assert nce_loss(parts, parts).item() == pytest.approx(2.0 * np.log(2.0))


def test_springs_learn_a_molecule_and_a_walk_finds_its_bonds(tmp_path):
    """Data rigid to 0.01 angstrom, samples to 0.1: after training a walk brings bonds of samples back to the data's."""
    graph = extended(ETHANOL)
    data = rdkit_conformers(graph_mol(ETHANOL), 1)[0]
    draw = np.random.default_rng(0)
    real = ConformerSet.of([graph], [data + 0.01 * draw.standard_normal((64, 9, 3))])
    drawn = ConformerSet.of([graph], [data + 0.1 * draw.standard_normal((64, 9, 3))])
    network = sprung(1, loud=False).float()
    task = EnergyTask(real, [drawn], network.config)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(250):
        rows = torch.randint(64, (16,), generator=generator(step))
        loss, terms = task.loss(network, rows, generator=generator(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert terms["misfit"] < 0.03 and loss < 1.0
    save_energy(network, network.config, tmp_path)
    again, pairs = load_energy(tmp_path), collate([graph])
    start = torch.from_numpy(data + 0.1 * draw.standard_normal((4, 9, 3))).float()
    settings = Walk(num_steps=100, first_step=1e-2, last_step=1e-4, noise_scale=0.0)
    found = walk(lambda at: again(pairs, at).squeeze(-1), start, settings, generator=generator())

    def off(positions: torch.Tensor) -> float:
        bonded = pairs.hops == 1
        wanted = pairs.distances(torch.from_numpy(data).float())[bonded]
        return float((pairs.distances(positions)[:, bonded] - wanted).abs().mean())

    assert off(found.positions) < 0.5 * off(start)


def test_a_negative_width_of_templates_is_refused():
    with pytest.raises(InvalidInput, match="template_width"):
        EnergyConfig(template_width=-1)
