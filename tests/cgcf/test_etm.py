"""The energy: symmetry, forces, the noise-contrastive optimum, and walks on energies with known answers."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from cgcf_toys import BUTANOL, ETHANOL, batch, extended, generator, loud_flow
from torch import nn

from molkit.cgcf.bridge import bridge
from molkit.cgcf.conformer_set import ConformerSet
from molkit.cgcf.energy import AllPairs, EnergyConfig, EnergyNetwork, nce_loss
from molkit.cgcf.energy_training import EnergyTask, load_energy, save_energy
from molkit.cgcf.flow import decode, latent_of
from molkit.cgcf.graph import collate
from molkit.cgcf.model import Cgcf, load_flow
from molkit.cgcf.refinement import Walk, refine, tilted_energy, walk
from molkit.cgcf.solver import Solver
from molkit.chem.bond_graph import graph_mol
from molkit.chem.rdkit_conformers import rdkit_conformers
from molkit.errors import InvalidInput
from molkit.geometry import aligned_rmsd, random_rotations


def loud_energy() -> EnergyNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        network = EnergyNetwork(EnergyConfig(width=16, num_blocks=2, num_gaussians=12, cutoff=6.0)).double()
    with torch.no_grad():
        network.last.weight.normal_(generator=generator())
        network.pair_types.weight.normal_(generator=generator(1))
    return network.eval().requires_grad_(False)


def some_positions(graph, seed: int = 0) -> torch.Tensor:
    return 1.5 * torch.randn(len(graph.atomic_numbers), 3, generator=generator(seed), dtype=torch.float64)


def test_the_energy_does_not_feel_motion_reflection_and_order():
    """Test 6."""
    network, graph = loud_energy(), batch(BUTANOL, ETHANOL)
    positions = some_positions(graph)
    energy = network(graph, positions)
    rotation = random_rotations(1, generator=generator(3), dtype=torch.float64)[0]
    for other in (positions @ rotation.T + 2.0, -positions):
        torch.testing.assert_close(network(graph, other), energy, rtol=1e-10, atol=1e-12)
    swapped = network(batch(ETHANOL, BUTANOL), torch.cat([positions[15:], positions[:15]]))
    torch.testing.assert_close(swapped.flip(0), energy, rtol=1e-10, atol=1e-12)
    assert energy.abs().min() > 1e-3


def test_forces_are_the_numerical_gradient():
    """Test 6: 1e-4 relative asked for."""
    network, graph = loud_energy(), batch(ETHANOL)
    positions = some_positions(graph).requires_grad_()
    (found,) = torch.autograd.grad(network(graph, positions).sum(), positions)
    for atom, axis in ((0, 0), (3, 1), (8, 2)):
        step = torch.zeros_like(positions)
        step[atom, axis] = 1e-5
        slope = (network(graph, positions + step) - network(graph, positions - step)) / 2e-5
        assert slope.item() == pytest.approx(found[atom, axis].item(), rel=1e-4, abs=1e-8)


def test_forces_stay_finite_where_atoms_meet():
    network, graph = loud_energy(), batch(ETHANOL)
    positions = torch.zeros(9, 3, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(network(graph, positions).sum(), positions)
    assert torch.isfinite(found).all()


def test_the_energy_grows_like_the_root_of_the_number_of_atoms():
    """n copies far apart as one graph: n times the sum, divided by the root of n times the atoms."""
    network, graph = loud_energy(), batch(ETHANOL)
    positions = some_positions(graph)
    one = network(graph, positions)
    many = graph.repeat(4)
    joined = type(graph)(
        many.atomic_numbers, torch.tensor([36]), many.pairs, many.types, many.hops, many.num_pairs.sum(0, keepdim=True)
    )
    apart = torch.cat([positions + 100.0 * k for k in range(4)])
    torch.testing.assert_close(network(joined, apart), 2.0 * one, rtol=1e-10, atol=1e-12)


def test_all_pairs_know_the_types_of_the_extended_graph():
    graph = batch(ETHANOL, BUTANOL)
    pairs = AllPairs.of(graph)
    assert pairs.pairs.shape[1] == 9 * 8 // 2 + 15 * 14 // 2
    typed = pairs.types > 0
    assert torch.equal(pairs.pairs[:, typed], graph.pairs) and torch.equal(pairs.types[typed], graph.types)


def test_training_starts_at_two_ln_two(tmp_path):
    """Test 7, and weights go to disk and back."""
    graphs = [extended(ETHANOL), extended(BUTANOL)]
    ensembles = [some_positions(collate([graph])).numpy()[None] for graph in graphs]
    config = EnergyConfig(width=16, num_blocks=1)
    data = ConformerSet.of(graphs, ensembles)
    network = EnergyNetwork(config)
    loss, _ = EnergyTask(data, [data], config).loss(network, torch.arange(2), generator=generator())
    assert loss.item() == pytest.approx(2.0 * math.log(2.0), abs=1e-6)
    save_energy(network, config, tmp_path)
    assert load_energy(tmp_path).config == config
    with pytest.raises(InvalidInput, match="belong to method etm"):
        load_flow(tmp_path)


def test_a_bridge_leads_from_the_data_to_the_flow():
    """At small shares of noise the conformers stay near the data; every level has its own part of the energy."""
    flow, graph = loud_flow(), batch(ETHANOL)
    positions = torch.from_numpy(rdkit_conformers(graph_mol(ETHANOL), 1)).repeat(8, 1, 1)
    distances = graph.distances(positions)
    solver = Solver("rk4", 40)
    back = decode(flow, graph, latent_of(flow, graph, distances, solver=solver), solver=solver)
    torch.testing.assert_close(back, distances, rtol=0.0, atol=1e-4)
    levels = bridge(Cgcf(flow), graph, positions, (0.01, 0.3), generator=generator())
    assert levels.shape == (8, 3, 9, 3)
    away = [
        float(np.mean([aligned_rmsd(a.numpy(), b.numpy()) for a, b in zip(levels[:, k], positions, strict=True)]))
        for k in range(3)
    ]
    assert away[0] < 0.1 and away[0] < away[1] < away[2]


def test_parts_of_an_energy_add_up_and_levels_must_match():
    network, graph = loud_energy(), batch(BUTANOL, ETHANOL)
    network.last = nn.Linear(8, 3).double()
    positions = some_positions(graph)
    parts = network.parts(graph, positions)
    assert parts.shape == (2, 3)
    torch.testing.assert_close(parts.sum(-1), network(graph, positions))
    data = ConformerSet.of([extended(ETHANOL)], [np.zeros((1, 9, 3))])
    with pytest.raises(InvalidInput, match="needs as many levels"):
        EnergyTask(data, [data], EnergyConfig(num_levels=3))


def test_the_noise_contrastive_optimum_is_the_log_ratio():
    """Test 7: data N(0, 1), samples N(0, 2^2): E = log p_flow - log p_data = -ln 2 + 3 x^2 / 8, learned to 0.15."""
    torch.random.manual_seed(0)
    network = nn.Sequential(nn.Linear(1, 32), nn.Softplus(), nn.Linear(32, 1))
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(400):
        real, drawn = torch.randn(1024, 1, generator=GENERATOR), 2.0 * torch.randn(1024, 1, generator=GENERATOR)
        loss = nce_loss(network(real), network(drawn))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x = torch.linspace(-2.0, 2.0, 21)[:, None]
    expected = -math.log(2.0) + 3.0 / 8.0 * x**2
    assert (network(x) - expected).abs().mean() < 0.15


GENERATOR = generator(11)


def quadratic(positions: torch.Tensor) -> torch.Tensor:
    return 0.5 * positions.square().sum((-2, -1))


def test_langevin_on_a_quadratic_has_the_right_variance():
    """Test 8: the chain x <- (1 - s/2) x + sqrt(s) w settles at variance 1 / (1 - s/4); 24,000 numbers, 2 %."""
    settings = Walk(num_steps=150, first_step=0.1, last_step=0.1, clip=float("inf"))
    start = torch.zeros(2000, 4, 3, dtype=torch.float64)
    found = walk(quadratic, start, settings, generator=generator())
    assert found.kind == "Langevin dynamics"
    assert found.positions.var().item() == pytest.approx(1.0 / (1.0 - 0.1 / 4.0), rel=0.03)


def test_without_noise_the_energy_never_rises_and_is_called_refinement():
    """Test 8."""
    flow, network, graph = loud_flow().requires_grad_(False), loud_energy(), batch(ETHANOL)
    start = torch.stack([some_positions(graph, seed) for seed in range(3)])
    found = refine(flow, network, graph, start, Walk(num_steps=12, noise_scale=0.0), generator=generator())
    assert found.kind == "refinement without noise"
    assert (found.energies.diff(dim=0) <= 1e-9).all() and (found.energies[-1] < found.energies[0] - 1e-3).all()
    again = refine(flow, network, graph, start, Walk(num_steps=12, noise_scale=0.0), generator=generator())
    assert torch.equal(found.positions, again.positions)


def test_the_tilted_energy_differentiates_through_the_density():
    flow, network, graph = loud_flow().requires_grad_(False), loud_energy(), batch("O")
    probe = torch.randn(graph.pairs.shape[1], generator=generator(), dtype=torch.float64)
    energy = tilted_energy(flow, network, graph, probe=probe)
    positions = some_positions(graph)[None].requires_grad_()
    (found,) = torch.autograd.grad(energy(positions).sum(), positions)
    step = torch.zeros_like(positions)
    step[0, 1, 2] = 1e-5
    slope = (energy(positions + step) - energy(positions - step)) / 2e-5
    assert slope.item() == pytest.approx(found[0, 1, 2].item(), rel=1e-4)


def test_gradients_are_clipped_and_counted():
    settings = Walk(num_steps=1, first_step=1.0, last_step=1.0, clip=5.0, noise_scale=0.0)
    found = walk(
        lambda x: 100.0 * quadratic(x), torch.ones(1, 2, 3, dtype=torch.float64), settings, generator=generator()
    )
    assert found.clipped == 1.0 and torch.equal(found.positions, torch.full((1, 2, 3), 1.0 - 2.5, dtype=torch.float64))


def test_a_walk_that_cannot_be_is_refused():
    with pytest.raises(InvalidInput, match="num_steps >= 1"):
        Walk(num_steps=0)
    with pytest.raises(InvalidInput, match="clip > 0"):
        Walk(clip=0.0)


def test_an_energy_is_trained_from_a_recipe_and_its_pool_is_kept(tmp_path):
    from molkit.cgcf.config import FlowConfig
    from molkit.cgcf.model import build_flow, save_flow
    from molkit.cli import run

    flow = build_flow(FlowConfig(width=8, sampling_steps=1))
    with torch.no_grad():
        flow.data_norm.mean.fill_(2.4)
    save_flow(flow, tmp_path / "flow")
    training = {"batch_pairs": 500, "total_steps": 2, "precision": "float32", "log_every": 1}
    model = {"width": 8, "num_blocks": 1, "num_gaussians": 4}
    values = {"method": "etm", "flow": str(tmp_path / "flow"), "pool": 2, "data": {"limit": 3}, "model": model}
    recipe, out = tmp_path / "etm.yaml", tmp_path / "run"
    recipe.write_text(yaml.safe_dump(values | {"training": training}))
    assert run(["train", str(recipe), "--out", str(out), "--quiet"]) == 0
    network = load_energy(out)
    assert network.config.flow == str(tmp_path / "flow") and network.last.weight.abs().max() > 0.0
    (pool,) = (out / "pool").iterdir()
    before = pool.stat().st_mtime_ns
    assert run(["train", str(recipe), "--out", str(out), "--quiet", "--resume", "--total-steps", "3"]) == 0
    assert pool.stat().st_mtime_ns == before


def test_the_command_refines_ranks_by_the_energy_and_farms(tmp_path, capfd):
    from molkit.cgcf.config import FlowConfig
    from molkit.cgcf.model import build_flow, save_flow
    from molkit.cli import run

    flow = build_flow(FlowConfig(elements=(1, 6, 8), width=8, sampling_steps=1))
    with torch.no_grad():
        flow.data_norm.mean.fill_(2.4)
    save_flow(flow, tmp_path / "flow")
    network = loud_energy().float()
    save_energy(network, replace(network.config, flow="runs/flow"), tmp_path / "etm")
    smiles, out = tmp_path / "some.smi", tmp_path / "made.sdf"
    smiles.write_text("CCO\nCCN\nCC(O)CO\n")
    command = ["conformers", str(smiles), "-n", "4", "--weights", str(tmp_path / "flow"), "--stereo", "ignore"]
    command += ["--out", str(out), "--rank", "etm", "--no-relax"]
    assert run(command) == 2 and "needs weights of its energy" in capfd.readouterr().err
    command += ["--etm", str(tmp_path / "etm")]
    assert run(command) == 3
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("left out, molecule 2: 'CCN': ")]
    assert len(told) == 1 and "trained without N" in told[0]
    lines = out.read_text().splitlines()
    energies = [float(lines[row + 1]) for row, line in enumerate(lines) if "<etm_energy>" in line]
    assert len(energies) == 8 and energies[:4] == sorted(energies[:4]) and energies[4:] == sorted(energies[4:])
    first = out.read_bytes()
    assert run([*command, "--workers", "2"]) == 3 and out.read_bytes() == first
