"""Muon: what it does to matrices, and that runs with it resume as any other."""

import pytest
import torch
from test_training_loop import stop_at
from training_toys import TINY, run, same_state, settings

from molkit.edm.config import EdmConfig
from molkit.edm.model import build
from molkit.errors import InvalidInput
from molkit.training.config import TrainConfig
from molkit.training.optimisers import Muon, hidden_matrices, make_optimiser, orthogonalise


@pytest.mark.parametrize("shape", [(16, 16), (16, 34), (34, 16)])
def test_singular_values_move_near_one_and_their_vectors_stay(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    found = left.mT @ orthogonalise(matrices) @ right.mT
    middle = torch.diagonal(found, dim1=-2, dim2=-1)
    assert (found - torch.diag_embed(middle)).abs().max() < 1e-9
    large = values > 0.05 * values[:, :1]  # five steps do not lift a nearly singular direction
    assert middle[large].min() > 0.5 and middle[large].max() < 1.3


def test_hidden_matrices_leave_out_vectors_and_the_layers_next_to_data():
    network = build(TINY).network
    names = {id(p): name for name, p in network.named_parameters()}
    found = [names[id(p)] for p in hidden_matrices(network)]
    assert len(found) == 2 * 6  # of each block: first and second of both pair networks, two of the update
    assert not any(name.startswith(("embed", "read_out")) or "gate" in name or "bias" in name for name in found)


def test_what_is_no_hidden_matrix_takes_the_steps_of_adamw():
    results = []
    for make in (torch.optim.AdamW, lambda parameters, **options: Muon([], parameters, **options)):
        weight = torch.nn.Parameter(torch.linspace(-1.0, 1.0, 12, dtype=torch.float64).view(3, 4))
        optimiser = make([weight], lr=0.1, weight_decay=0.01, betas=(0.9, 0.99))
        for k in range(5):
            optimiser.zero_grad()
            (weight - k).pow(4).sum().backward()
            optimiser.step()
        results.append(weight.detach())
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)


def test_the_first_step_on_a_matrix_is_its_gradient_made_orthogonal():
    weight = torch.nn.Parameter(torch.zeros(4, 9, dtype=torch.float64))
    weight.grad = torch.randn(4, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    optimiser = Muon([weight], [], lr=0.01)
    optimiser.step()
    torch.testing.assert_close(weight.detach(), -0.01 * 0.2 * 3.0 * orthogonalise(weight.grad[None])[0])


def test_adamw_with_its_own_betas_is_the_default():
    optimiser = make_optimiser(TrainConfig(), build(TINY).network)
    assert isinstance(optimiser, torch.optim.AdamW)
    assert optimiser.defaults["betas"] == (0.9, 0.999)


CHANGES = {
    "muon": ({"optimiser": "muon"}, TINY),
    "muon fused": ({"optimiser": "muon", "engine": "fused"}, TINY),
    "low noise": ({"step_power": 2.0, "noise_weighting": "unbiased"}, TINY),
    "self-conditioning": ({"engine": "fused"}, EdmConfig(width=16, num_layers=2, self_conditioning=True)),
    "flow": ({"engine": "fused"}, EdmConfig(width=16, num_layers=2, process="flow")),
}


@pytest.mark.parametrize(("changes", "model"), CHANGES.values(), ids=CHANGES.keys())
def test_a_stopped_run_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path, changes, model):
    config = settings(**changes)
    run(tmp_path / "whole", config=config, model=model)
    run(tmp_path / "parts", config=config, model=model, on_step=stop_at(5))
    run(tmp_path / "parts", config=config, model=model, resume=True)
    assert same_state(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(("before", "after"), [("adamw", "muon"), ("muon", "adamw")])
def test_the_state_of_another_optimiser_is_refused(tmp_path, before, after):
    run(tmp_path, config=settings(optimiser=before), on_step=stop_at(3))
    with pytest.raises(InvalidInput, match="made with another optimiser"):
        run(tmp_path, config=settings(optimiser=after), resume=True)
