import numpy as np
import pytest
import torch

from molkit.data.qm9_labels import LabelledMolecules
from molkit.edm import engine
from molkit.edm.property_network import (
    PropertyConfig,
    PropertyTask,
    build_property,
    load_property,
    one_hot_elements,
    save_property,
)
from molkit.errors import InvalidInput
from molkit.geometry import random_rotations
from molkit.graphs import Graph
from molkit.molecule import Molecule, PackedMolecules

CONFIG = PropertyConfig(width=32, num_layers=2, properties=("alpha", "gap"), means=(70.0, 7.0), spreads=(6.0, 1.0))


def molecules(seed=0):
    generator = np.random.default_rng(seed)
    return PackedMolecules.from_molecules(
        Molecule(generator.choice([1, 6, 7, 8], size), generator.normal(size=(size, 3))) for size in (3, 7, 5, 1)
    )


def evaluate(network, pack, positions, dtype):
    graph = Graph.from_sizes(torch.from_numpy(pack.num_atoms))
    return network(one_hot_elements(CONFIG, pack).to(dtype), torch.from_numpy(positions).to(dtype), graph)


def test_properties_do_not_change_when_molecules_are_turned_mirrored_and_shifted():
    pack, network = molecules(), build_property(CONFIG).network.double()
    turn = random_rotations(1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[0].numpy()
    plain = evaluate(network, pack, pack.positions, torch.float64)
    for positions in (pack.positions @ turn.T, -pack.positions, pack.positions + 3.0):
        torch.testing.assert_close(evaluate(network, pack, positions, torch.float64), plain)


@pytest.mark.skipif(not engine.available(), reason="no C compiler or no AVX2")
def test_the_kernel_predicts_and_learns_as_the_written_layers_do():
    pack = molecules()
    results = []
    for fused in (False, True):
        network = build_property(CONFIG).network
        network.fused = fused
        found = evaluate(network, pack, pack.positions, torch.float32)
        found.square().sum().backward()
        results.append((found.detach(), torch.cat([p.grad.flatten() for p in network.parameters()])))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-4, atol=1e-5)
    assert (results[1][1] - results[0][1]).norm() < 1e-4 * results[0][1].norm()


def test_predictions_come_in_units_and_in_the_order_asked_for(tmp_path):
    model = build_property(CONFIG)
    save_property(tmp_path, CONFIG, model.network)
    loaded, pack = load_property(tmp_path), molecules()
    together = loaded.predict(pack)
    alone = np.concatenate([loaded.predict(pack.select(np.array([row]))) for row in range(len(pack))])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    scaled = evaluate(model.network, pack, pack.positions, torch.float32).detach().numpy()
    np.testing.assert_allclose(together, scaled * [6.0, 1.0] + [70.0, 7.0], atol=1e-3)


def test_the_loss_is_the_absolute_error_in_mean_absolute_deviations():
    pack = molecules()
    model = build_property(CONFIG)
    labels = model.predict(pack) + np.array([6.0, -2.0])
    task = PropertyTask(CONFIG, LabelledMolecules(pack, np.arange(4), labels))
    loss, _ = task.loss(model.network, torch.arange(4), generator=torch.Generator())
    assert float(loss.detach()) == pytest.approx(1.5, abs=1e-4)


def test_an_unknown_element_or_foreign_weights_end_in_one_line(tmp_path):
    with pytest.raises(InvalidInput, match="got Z = 16"):
        one_hot_elements(CONFIG, PackedMolecules(np.array([1]), np.array([16]), np.zeros((1, 3))))
    with pytest.raises(InvalidInput, match="not those of a property network"):
        load_property("edm_qm9")
