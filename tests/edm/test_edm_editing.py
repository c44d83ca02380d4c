"""Editing: what is held stays held, toys whose answer is known, symmetries, and one line for every mistake."""

import numpy as np
import pytest
import torch
from edm_toys import edm_with, knows, predicts_zero, random_molecules, random_rotation, tiny_config, tiny_edm
from torch import nn

from molkit.chem.growth import BOND_ANGSTROM, grown, open_valences
from molkit.edm.editing import complete, noise_angstrom, step_of_sigma, vary, with_composition
from molkit.edm.features import State, channel_spreads, encode
from molkit.edm.holding import Counted, Guidance, Holding, Known, relative, resampled
from molkit.edm.model import build
from molkit.edm.sampling import MoleculeNoise
from molkit.edm.schedule import alpha, sigma
from molkit.errors import InvalidInput
from molkit.graphs import Graph
from molkit.molecule import Molecule

SHORT = {"num_steps": 20, "schedule_offset": 1e-5}
PRECONDITIONED = {
    "parametrisation": "preconditioned",
    "feature_means": (0.13, 0.09, 0.01, 0.02, 0.0, 0.36),
    "spreads": (1.4, 0.087, 0.28),
}


class Knows(nn.Module):
    """An inner network that sees the noise level and the noisy state, and knows the clean one [A, 3 + n_h]."""

    def __init__(self, config, clean: State) -> None:
        super().__init__()
        self.config, self.clean = config, torch.cat([clean.positions, clean.features], dim=-1)
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, features, positions, time, edge_index, batch, num_molecules):
        level, spread = torch.exp(4.0 * time.double()), channel_spreads(self.config)
        whole = (level**2 + spread**2).sqrt()
        means = torch.tensor([0.0, 0.0, 0.0, *self.config.feature_means], dtype=torch.float64)
        seen = torch.cat([positions.double() * (whole / spread)[:, :3], features.double() * whole[:, 3:]], dim=-1)
        answer = (self.clean - means - (spread / whole) ** 2 * seen) * whole / (level * spread)
        return answer[:, :3].float(), answer[:, 3:].float()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fragment(size: int = 4, seed: int = 3) -> Molecule:
    molecule = random_molecules([size], seed=seed)[0]
    return molecule.with_positions(4.0 * molecule.positions)  # so that no two atoms overlap


# what is held stays held


@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_fixed_atoms_come_first_exactly_where_they_were(guidance):
    given = fragment()
    given = given.with_positions(given.positions + [5.0, -3.0, 2.0])
    edits = complete(
        tiny_edm(**SHORT), given, num_new=3, count=4, generator=generator(), resamplings=2, jump=3, guidance=guidance
    )
    assert edits.molecules.num_atoms.tolist() == [7] * 4 and edits.rows.tolist() == [0, 1, 2, 3]
    for made in edits.molecules:
        assert np.array_equal(made.positions[:4], given.positions)
        assert np.array_equal(made.atomic_numbers[:4], given.atomic_numbers)
    assert not np.allclose(edits.molecules[0].positions, edits.molecules[1].positions)


def test_a_perfect_denoiser_completes_a_molecule_to_itself():
    """Fixed atoms come first; the network knows the whole molecule, the edit only the first half."""
    config = tiny_config(num_steps=50)
    whole = random_molecules([8], seed=1)[0].centred()
    clean = encode(config, torch.from_numpy(whole.atomic_numbers), torch.from_numpy(whole.positions).float())
    given = Molecule(whole.atomic_numbers[:4], whole.positions[:4] + 7.0)
    edits = complete(edm_with(config, knows(clean)), given, num_new=4, generator=generator(), guidance=0.0)
    made = edits.molecules[0]
    np.testing.assert_allclose(made.positions, whole.positions + 7.0, atol=0.03)  # the last step samples
    assert np.array_equal(made.atomic_numbers, whole.atomic_numbers)


def test_the_projection_is_orthogonal_and_keeps_the_mean_at_zero():
    graph = Graph.from_sizes(torch.tensor([5, 4]))
    known = torch.tensor([1, 1, 0, 1, 0, 0, 1, 1, 0], dtype=torch.bool)
    first, second = (torch.randn(9, 3, generator=generator(k), dtype=torch.float64) for k in range(2))
    projected = relative(first, known, graph)
    torch.testing.assert_close(relative(projected, known, graph), projected)
    torch.testing.assert_close((projected * second).sum(), (first * relative(second, known, graph)).sum())
    assert float(graph.sum(projected).abs().max()) < 1e-14
    assert float(projected[~known].abs().max()) == 0.0
    shift = torch.ones(9, 3, dtype=torch.float64)
    torch.testing.assert_close(relative(first + shift, known, graph), projected)


def test_a_corrected_prediction_stands_for_the_known_clean_state():
    graph = Graph.from_sizes(torch.tensor([6]))
    draws = [torch.randn(6, 3, generator=generator(k), dtype=torch.float64) for k in range(3)]
    parts = [State(graph.centre(draw), torch.ones(6, 6).double()) for draw in draws]
    clean, noisy, guess = parts
    known = torch.tensor([1, 1, 1, 0, 0, 0], dtype=torch.bool)
    held = Holding((Known(clean, known, known),), Guidance(0.0, 1.0, torch.ones(6).double()))
    log_snr = torch.tensor(0.7, dtype=torch.float64)
    corrected = held.predict(lambda state: guess, noisy, graph, log_snr)
    found = (noisy.positions - sigma(log_snr) * corrected.positions) / alpha(log_snr)
    torch.testing.assert_close(relative(found, known, graph), relative(clean.positions, known, graph))
    assert float(graph.sum(corrected.positions).abs().max()) < 1e-12
    torch.testing.assert_close(corrected.features[~known], guess.features[~known])


# a toy whose conditional is known exactly


class Chain:
    """Three atoms on a line of springs: x ~ N(0, C x 1_3) on the zero-mean subspace, with its exact denoiser."""

    def __init__(self) -> None:
        factor = torch.tensor([[0.9, 0.0], [-0.5, 0.6], [-0.4, -0.6]], dtype=torch.float64)
        self.covariance = factor @ factor.T

    def predict(self, noisy: State, step, log_snr) -> State:
        """E[noise | z]: sigma (alpha^2 C + sigma^2)^-1 z for positions; features are noise around zero."""
        signal, spread = alpha(log_snr[0, 0]), sigma(log_snr[0, 0])
        matrix = spread * torch.linalg.inv(signal**2 * self.covariance + spread**2 * torch.eye(3))
        places = noisy.positions.double().reshape(-1, 3, 3)
        return State((matrix.to(places) @ places).reshape(-1, 3), spread * noisy.features.double())

    def conditional(self, separation: float) -> tuple[float, float]:
        """Mean and variance of x_2 - (x_0 + x_1) / 2 along an axis on which x_0 - x_1 is `separation`."""
        a, b = (torch.tensor(row, dtype=torch.float64) for row in ([1.0, -1.0, 0.0], [-0.5, -0.5, 1.0]))
        known, cross, own = a @ self.covariance @ a, a @ self.covariance @ b, b @ self.covariance @ b
        return float(cross / known * separation), float(own - cross**2 / known)


def test_completions_of_a_gaussian_have_its_conditional_mean_and_spread():
    toy = Chain()
    edm = edm_with(tiny_config(num_steps=200, sizes=((3, 1),)), toy.predict)
    given = Molecule([1, 1], [[1.2, 0.0, 0.0], [0.0, 0.0, 0.0]])
    edits = complete(
        edm, [given] * 1500, num_new=1, generator=generator(), guidance=0.0, resamplings=6, jump=20,
        start=None, num_calls=101, pair_budget=10**6,
    )  # fmt: skip
    third = edits.molecules.positions.reshape(-1, 3, 3)[:, 2] - [0.6, 0.0, 0.0]
    mean, variance = toy.conditional(1.2)
    error = 4.0 * np.sqrt(variance / len(third))
    assert abs(third[:, 0].mean() - mean) < error + 0.01
    assert np.abs(third[:, 1:].mean(axis=0)).max() < error
    assert third.var(axis=0).mean() == pytest.approx(variance, rel=0.1)


# symmetries, in float64


def double_edm():
    edm = tiny_edm(**SHORT)
    edm.network.double()
    return edm


def test_completions_turn_and_move_with_the_fragment(monkeypatch):
    edm, given, turn = double_edm(), fragment(), random_rotation(5)
    options = {"num_new": 3, "generator": generator(), "start": None, "resamplings": 2, "jump": 4, "guidance": 2.0}
    plain = complete(edm, given, **options).molecules[0]
    options["generator"] = generator()
    draw = MoleculeNoise.next

    def turned(stream):
        noise = draw(stream).double()
        return torch.cat([noise[:, :3] @ turn.T, noise[:, 3:]], dim=1)

    monkeypatch.setattr(MoleculeNoise, "next", turned)
    there = given.with_positions(given.positions @ turn.numpy().T + [9.0, 1.0, -4.0])
    moved = complete(edm, there, **options).molecules[0]
    np.testing.assert_allclose(
        moved.positions, plain.positions @ turn.numpy().T + [9.0, 1.0, -4.0], rtol=1e-4, atol=1e-4
    )
    assert np.array_equal(moved.atomic_numbers, plain.atomic_numbers)


def test_a_molecule_depends_on_its_own_noise_alone():
    given, edm = [fragment(4, seed) for seed in range(5)], tiny_edm(**SHORT)
    options = {"num_new": [1, 2, 3, 4, 5], "num_calls": 6}
    together = complete(edm, given, generator=generator(), **options).molecules
    apart = complete(edm, given, generator=generator(), pair_budget=1, **options).molecules
    np.testing.assert_allclose(together.positions, apart.positions, atol=1e-3)


# counts


def test_balanced_shares_meet_the_counts_and_leave_agreement_alone():
    graph = Graph.from_sizes(torch.tensor([4]))
    counts = torch.tensor([[2.0, 1.0, 1.0]]).expand(4, -1)
    part = Counted(torch.ones(4, dtype=torch.bool), counts, torch.tensor([1, 6, 8]), 4.0, 10.0)
    agreeing = torch.eye(3)[[0, 0, 1, 2]]
    torch.testing.assert_close(part.balanced(agreeing, graph), agreeing, atol=1e-3, rtol=0.0)
    doubtful = torch.tensor([[0.9, 0.05, 0.05], [0.9, 0.05, 0.05], [0.6, 0.1, 0.3], [0.1, 0.8, 0.1]])
    shares = part.balanced(doubtful, graph)
    torch.testing.assert_close(shares.sum(0), counts[0], atol=1e-3, rtol=0.0)
    assert shares.argmax(-1).tolist() == [0, 0, 2, 1]


def test_a_composition_is_met_or_the_chain_counts_as_failed():
    edm = tiny_edm(**SHORT)
    for by_atom in (False, True):
        edits = with_composition(edm, "C2H6O", count=5, generator=generator(), by_atom=by_atom, guidance=0.0)
        assert len(edits.molecules) + len(edits.failed) == 5
        assert {molecule.formula for molecule in edits.molecules} <= {"C2H6O"}
    assert not edits.failed
    mixed = with_composition(edm, ["CH4", {8: 1, 1: 2}], count=2, generator=generator(), by_atom=True, guidance=0.0)
    assert [molecule.formula for molecule in mixed.molecules] == ["CH4", "CH4", "H2O", "H2O"]


def test_new_atoms_of_given_elements_are_of_those_elements():
    edits = complete(
        tiny_edm(**SHORT), Molecule([6], [[1.0, 2.0, 3.0]]), new_elements=[1] * 4, generator=generator(), guidance=0.0
    )
    assert [molecule.formula for molecule in edits.molecules] in (["CH4"], [])


# variation


def test_the_noise_level_in_angstrom_finds_its_step():
    edm = tiny_edm()
    levels = noise_angstrom(edm)
    for step in (1, 50, 500, 1000):
        assert step_of_sigma(edm, float(levels[step])) == step
    assert float(levels[step_of_sigma(edm, 0.5)]) == pytest.approx(0.5, rel=0.02)


def test_a_perfect_denoiser_takes_a_varied_molecule_back():
    config = tiny_config(num_steps=50)
    whole = random_molecules([6], seed=2)[0]
    clean = encode(config, torch.from_numpy(whole.atomic_numbers), torch.from_numpy(whole.centred().positions).float())
    edits = vary(edm_with(config, knows(clean)), whole, sigma=0.5, generator=generator())
    np.testing.assert_allclose(edits.molecules[0].positions, whole.positions, atol=0.03)


def test_kept_atoms_of_a_variation_do_not_move():
    whole = fragment(6)
    edits = vary(tiny_edm(**SHORT), whole, step=10, keep_atoms=[0, 2, 5], count=2, generator=generator(), guidance=0.0)
    for made in edits.molecules:
        assert np.array_equal(made.positions[[0, 2, 5]], whole.positions[[0, 2, 5]])
    assert not np.allclose(made.positions[1], whole.positions[1])


# resampling


def test_resampling_walks_every_stretch_again():
    assert resampled([6, 4, 2, 0], 1) == [6, 4, 2, 0]
    assert resampled([6, 4, 2, 0], 2, jump=2) == [6, 4, 2, 6, 4, 2, 0, 2, 0]
    options = {"num_new": 1, "generator": generator(), "resamplings": 3, "guidance": 0.0}
    assert complete(tiny_edm(**SHORT), fragment(), start=None, **options).num_calls == 3 * 20 + 1
    assert complete(tiny_edm(**SHORT), fragment(), start=0.3, **options).num_calls == 3 * 4 + 1


# where new atoms start


def methyl() -> Molecule:
    """A carbon with three hydrogens of methane."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1]]) / np.sqrt(3.0)
    return Molecule([6, 1, 1, 1], [[0.0, 0.0, 0.0], *(1.09 * corners)])


def test_open_valences_are_the_bonds_that_atoms_lack():
    assert open_valences(methyl()).tolist() == [1, 0, 0, 0]
    carbonyl = Molecule([6, 8, 1, 17], [[0, 0, 0], [1.2, 0, 0], [-0.55, 0.95, 0], [9, 0, 0]])
    assert open_valences(carbonyl).tolist() == [1, 0, 0, 1]


def test_new_atoms_grow_a_bond_away_from_what_is_open_and_clear_of_the_rest():
    given = methyl()
    for seed in range(20):
        first, second = grown(given, 2, generator=generator(seed))
        gaps = np.linalg.norm(first - given.positions, axis=1)
        assert gaps[0] == pytest.approx(BOND_ANGSTROM) and gaps[1:].min() > 1.6  # the opposite side: 1.96
        assert np.linalg.norm(second - first) == pytest.approx(BOND_ANGSTROM)
    places = [tuple(grown(given, 3, generator=generator(seed)).round(6).ravel()) for seed in (1, 1, 2)]
    assert places[0] == places[1] != places[2]


def test_where_nothing_is_open_atoms_grow_all_the_same():
    hydrogen = Molecule([1, 1], [[0, 0, 0], [0.74, 0, 0]])
    assert open_valences(hydrogen).tolist() == [0, 0]
    assert grown(hydrogen, 2, generator=generator()).shape == (2, 3)


def test_a_chain_enters_with_the_new_atoms_at_their_rough_places():
    """A network that says its input is clean up to the noise of the level: nothing moves farther than that noise."""
    edm, given = edm_with(tiny_config(num_steps=50), predicts_zero), methyl()
    low = float(noise_angstrom(edm)[1])
    edits = complete(edm, given, num_new=1, count=5, generator=generator(), start=low, guidance=0.0)
    for made in edits.molecules:
        assert np.linalg.norm(made.positions[4] - made.positions[0]) == pytest.approx(BOND_ANGSTROM, abs=12 * low)


def test_a_preconditioned_model_with_the_right_answer_completes_a_molecule_to_itself():
    """The inner network answers F* = (x - D) q / (sigma s) + ..., from what it is given and the whole molecule."""
    config = tiny_config(num_steps=50, **PRECONDITIONED)
    whole = random_molecules([8], seed=1)[0].centred()
    clean = encode(config, torch.from_numpy(whole.atomic_numbers), torch.from_numpy(whole.positions).double())
    edm = build(config)
    edm.network.inner = Knows(config, clean)
    given = Molecule(whole.atomic_numbers[:4], whole.positions[:4] + 7.0)
    for start in (None, 0.5):
        edits = complete(edm, given, num_new=4, generator=generator(), guidance=0.0, start=start)
        np.testing.assert_allclose(edits.molecules[0].positions, whole.positions + 7.0, atol=0.03)
        assert np.array_equal(edits.molecules[0].atomic_numbers, whole.atomic_numbers)


# mistakes


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        (Molecule([6, 1], [[0, 0, 0], [0.3, 0, 0]]), {"num_new": 3}, r"atoms 1 \(C\) and 2 \(H\) overlap: 0.30"),
        (Molecule([6, 16], [[0, 0, 0], [1.8, 0, 0]]), {"num_new": 3}, "atom 2 is S, which this model cannot place"),
        (Molecule([6], [[0, 0, 0]]), {"num_new": 60}, "61 atoms in all"),
        (Molecule([6], [[0, 0, 0]]), {"num_new": 0}, "at least one new atom"),
        (Molecule([6], [[0, 0, 0]]), {"new_elements": [1] * 5}, "odd number of electrons"),
        (Molecule([6], [[0, 0, 0]]), {"new_elements": [1] * 6}, "CH6 is impossible"),
        (Molecule([6], [[0, 0, 0]]), {"num_new": 3, "guidance": -1.0}, "strength of the guidance"),
        (Molecule([6], [[0, 0, 0]]), {"num_new": 3, "start": 1e9}, "the noise level must lie in"),
        (Molecule([6], [[0, 0, 0]]), {"num_new": 3, "resamplings": 0}, "resamplings and jump"),
        (Molecule([6], [[0, 0, 0]]), {"num_new": 3, "count": 0}, "count of at least 1"),
    ],
)
def test_an_impossible_completion_is_refused(given, options, words):
    with pytest.raises(InvalidInput, match=words):
        complete(tiny_edm(**SHORT), given, generator=generator(), **options)


@pytest.mark.parametrize(
    ("formula", "words"),
    [
        ("C7H11O2", "odd number of electrons"),
        ("CH6", "CH6 is impossible: its atoms make at most 5 bonds, 7 atoms need 6; remove 2 hydrogens"),
        ("C9H20O8", "37 atoms in all"),
        ("C2H6S", "is S, which this model cannot place"),
        ("C2H6Q", "Q is no chemical element"),
        ("water", "expected a chemical formula"),
        ("C0H4", "C wants a whole number from 1"),
    ],
)
def test_an_impossible_composition_is_refused(formula, words):
    with pytest.raises(InvalidInput, match=words):
        with_composition(tiny_edm(**SHORT), formula, generator=generator())


@pytest.mark.parametrize("options", [{"sigma": -1.0}, {"sigma": 1e6}, {"step": 0}, {}, {"sigma": 0.5, "step": 3}])
def test_a_wrong_noise_level_is_refused(options):
    with pytest.raises(InvalidInput, match="sigma|level|step"):
        vary(tiny_edm(**SHORT), fragment(), generator=generator(), **options)
