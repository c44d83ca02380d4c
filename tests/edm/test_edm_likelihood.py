"""The variational bound: a perfect predictor, a useless one, and every term on its own."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from edm_toys import clean_state, edm_with, knows, predicts_zero, random_molecules, tiny_config, tiny_edm

from molkit.edm.config import EdmConfig
from molkit.edm.likelihood import BoundTerms, bound, log_prob_size, prior_term, step_probabilities
from molkit.edm.schedule import alpha, log_snr_table, sigma, step_weight
from molkit.errors import InvalidInput
from molkit.molecule import Molecule, PackedMolecules

POSITION_CONSTANT = -4.837519  # nats for each degree of freedom: log(sigma_0 / alpha_0) + log(2 pi) / 2


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def kl_by_hand(clean, graph) -> torch.Tensor:
    """KL of q(z_T | x, h) from the standard normal, component by component, [B]."""
    table = log_snr_table(EdmConfig())
    signal, spread = alpha(table[-1]).item(), sigma(table[-1]).item()
    shrink = -math.log(spread) + 0.5 * (spread**2 - 1.0)
    found = []
    for row, size in enumerate(graph.num_atoms.tolist()):
        atoms = graph.batch == row
        values = torch.cat([clean.positions[atoms].flatten(), clean.features[atoms].flatten()]).double()
        found.append(0.5 * signal**2 * values.square().sum().item() + (3 * (size - 1) + 6 * size) * shrink)
    return torch.tensor(found, dtype=torch.float64)


def test_a_perfect_predictor_has_the_analytic_bound():
    """-log p(M), the prior's KL and the constants of step 0 are all that is left."""
    molecules = random_molecules([5, 12, 19])
    clean, graph = clean_state(tiny_config(), molecules)
    terms = bound(edm_with(tiny_config(), knows(clean)), molecules, generator=generator(), pair_budget=10**6)
    size = -torch.log(torch.tensor([5.0, 1689.0, 13832.0], dtype=torch.float64) / 100_000)
    constant = 3.0 * (torch.tensor([4.0, 11.0, 18.0], dtype=torch.float64)) * POSITION_CONSTANT
    torch.testing.assert_close(terms.size, size, rtol=1e-9, atol=0.0)
    torch.testing.assert_close(terms.positions, constant, rtol=1e-6, atol=0.0)
    assert terms.diffusion.abs().max() < 1e-6
    assert terms.types.abs().max() < 1e-7 and terms.atomic_number.abs().max() < 1e-7
    torch.testing.assert_close(terms.total, size + kl_by_hand(clean, graph) + constant, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(("uniform_share", "roughness"), [(1.0, 0.04), (0.1, 0.01)], ids=["paper", "default"])
def test_predicting_zero_costs_the_sum_of_weights(uniform_share, roughness):
    """E sum_t w_t |noise|^2 / 2 = 24.91 (d(M) + 6 M) / 2, and d(M) / 2 at step 0; four standard errors of 6,000.

    Whatever the probabilities of the steps; with ours the error is a quarter of the uniform one.
    """
    size, num = 4, 6000
    molecules, edm = random_molecules([size] * num), edm_with(tiny_config(), predicts_zero)
    terms = bound(edm, molecules, generator=generator(1), pair_budget=10**6, uniform_share=uniform_share)
    weights = step_weight(log_snr_table(tiny_config()))
    components = 3 * (size - 1) + 6 * size
    for found, expected in (
        (terms.diffusion, 0.5 * components * weights.sum().item()),
        (terms.positions, 9 * (POSITION_CONSTANT + 0.5)),
    ):
        error = found.std().item() / math.sqrt(num)
        assert error < roughness * abs(expected)
        assert found.mean().item() == pytest.approx(expected, abs=4.0 * error)


def test_every_step_can_be_drawn_and_probabilities_sum_to_one():
    table = log_snr_table(tiny_config())
    for share in (0.0, 0.1, 1.0):
        probabilities = step_probabilities(table, uniform_share=share)
        assert len(probabilities) == 1000 and probabilities.min() > 0.0
        assert probabilities.sum().item() == pytest.approx(1.0, abs=1e-12)
    torch.testing.assert_close(probabilities, torch.full_like(probabilities, 1e-3))


def test_the_prior_term_of_a_molecule_is_about_a_ten_thousandth():
    for seed in range(3):
        clean, graph = clean_state(tiny_config(), random_molecules([18], seed=seed))
        found = prior_term(log_snr_table(tiny_config()), clean, graph)
        torch.testing.assert_close(found, kl_by_hand(clean, graph), rtol=1e-9, atol=1e-15)
        assert 1e-5 < found.item() < 1e-3


def test_the_size_prior_is_the_published_histogram():
    sizes, counts = zip(*EdmConfig().sizes, strict=True)
    probability = np.array(counts) / 100_000
    log_probability = log_prob_size(EdmConfig(), torch.tensor(sizes)).numpy()
    np.testing.assert_allclose(np.exp(log_probability), probability, rtol=1e-12)
    assert -(probability * log_probability).sum() == pytest.approx(2.4757, abs=5e-5)


def test_a_size_that_training_never_saw_is_an_error():
    with pytest.raises(InvalidInput, match=r"^28 atoms: a size that the model's training histogram does not hold$"):
        bound(tiny_edm(), random_molecules([5, 28]), generator=generator())


def test_an_unknown_element_is_an_error():
    with pytest.raises(InvalidInput, match="got Z = 17"):
        bound(tiny_edm(), random_molecules([5], elements=(17,)), generator=generator())


def test_no_molecules_have_no_bound():
    with pytest.raises(InvalidInput, match="at least one molecule"):
        bound(tiny_edm(), PackedMolecules.from_molecules([]), generator=generator())


def test_one_molecule_is_a_batch():
    terms = bound(tiny_edm(), random_molecules([9]), generator=generator())
    assert all(getattr(terms, field.name).shape == (1,) for field in fields(BoundTerms))
    assert all(getattr(terms, field.name).dtype == torch.float64 for field in fields(BoundTerms))
    assert torch.isfinite(terms.total).all()


def test_the_total_is_the_sum_of_terms_and_means_are_per_term():
    terms = bound(tiny_edm(), random_molecules([9, 5]), generator=generator())
    parts = torch.stack([getattr(terms, field.name) for field in fields(BoundTerms)])
    assert len(parts) == 7
    torch.testing.assert_close(terms.total, parts.sum(0))
    assert sum(terms.means().values()) == pytest.approx(terms.total.mean().item())


def test_scaled_positions_pay_their_volume():
    config = tiny_config(scale_positions=2.0)
    terms = bound(edm_with(config, predicts_zero), random_molecules([5, 9]), generator=generator())
    torch.testing.assert_close(terms.volume, 3.0 * torch.tensor([4.0, 8.0], dtype=torch.float64) * math.log(2.0))
    assert bound(tiny_edm(), random_molecules([5]), generator=generator()).volume.item() == 0.0


def test_terms_come_in_the_order_of_the_molecules_whatever_the_batches():
    molecules = random_molecules([12, 5, 19, 9, 5])
    edm = tiny_edm()
    one = bound(edm, molecules, generator=generator(), pair_budget=1)
    all_together = bound(edm, molecules, generator=generator(), pair_budget=10**6)
    for name in ("size", "prior", "volume"):
        torch.testing.assert_close(getattr(one, name), getattr(all_together, name))
    assert one.size[1] == one.size[4] > one.size[0]


def test_where_a_molecule_lies_does_not_matter():
    molecule = random_molecules([9])[0]
    moved = molecule.with_positions(molecule.positions + [3.0, -2.0, 1.0])
    first, second = (
        bound(tiny_edm(), PackedMolecules.from_molecules([m]), generator=generator(2)).total for m in (molecule, moved)
    )
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-3)


def test_more_draws_average_the_same_quantity():
    """Two hundred molecules at 1 and at 20 draws each: means agree within four errors of the rougher one."""
    molecules = PackedMolecules.from_molecules([random_molecules([4])[0]] * 200)
    edm = edm_with(tiny_config(), predicts_zero)
    rough = bound(edm, molecules, generator=generator(3), pair_budget=10**6).diffusion
    fine = bound(edm, molecules, generator=generator(4), draws=20, pair_budget=10**6).diffusion
    assert fine.std() < 0.5 * rough.std()
    assert fine.mean().item() == pytest.approx(rough.mean().item(), abs=4.0 * rough.std().item() / math.sqrt(200))


def test_a_single_atom_has_no_positions_to_pay_for():
    config = tiny_config(sizes=((1, 3), (2, 1)))
    terms = bound(edm_with(config, predicts_zero), PackedMolecules.from_molecules([Molecule([8], [[0, 0, 0]])]),
                  generator=generator())  # fmt: skip
    assert terms.positions.item() == 0.0
    assert terms.size.item() == pytest.approx(-math.log(0.75))
