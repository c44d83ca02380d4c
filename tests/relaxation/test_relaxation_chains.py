"""Section by section what an exact denoiser makes of the chains: no trained network is needed."""

import numpy as np
import pytest
import torch

from molkit.edm.config import EdmConfig
from molkit.edm.model import build
from molkit.edm.samplers import SAMPLERS
from molkit.edm.schedule import log_snr_table, sigma
from molkit.errors import InvalidInput
from molkit.geometry import aligned_rmsd, superpose
from molkit.molecule import Molecule
from molkit.relaxation import boltzmann, phases
from molkit.relaxation.chains import generate, relax_from, walk_on_the_spot
from molkit.relaxation.denoisers import ExactDenoiser, NetworkDenoiser
from molkit.rng import generator_from

CONFIG = EdmConfig()
TABLE = log_snr_table(CONFIG)
FLOOR = float(torch.exp(-0.5 * TABLE[0]))  # sigma_0 / alpha_0, angstrom


def blob(size: int, seed: int = 0) -> Molecule:
    random = np.random.default_rng(seed)
    return Molecule(random.choice([1, 6, 7, 8], size=size), 1.5 * random.normal(size=(size, 3))).centred()


def shaken(molecule: Molecule, width: float = 0.1, seed: int = 1) -> Molecule:
    return molecule.with_positions(
        molecule.positions + width * np.random.default_rng(seed).normal(size=molecule.positions.shape)
    )


def exact(molecules, **options) -> ExactDenoiser:
    return ExactDenoiser.knowing(CONFIG, TABLE, molecules, **options)


@pytest.mark.parametrize("step", [20, 50])
def test_a_perfect_model_ends_at_the_known_geometry_with_the_noise_of_the_last_step(step):
    """100 runs of 9 atoms: the floor sqrt((N - 1) / N) sigma_0 / alpha_0 per coordinate; its error bar is 2 %."""
    known = blob(9)
    found = relax_from(
        exact([known] * 100),
        [shaken(known, seed=k) for k in range(100)],
        step=step,
        generator=generator_from("t", step),
    )
    runs = [run.positions[-1] for run in found.trajectories]
    # the exact denoiser turns its geometry to the chain, so compare with the geometry it pointed at in the last call
    errors = [run - one.predicted_positions[-1] for run, one in zip(runs, found.trajectories, strict=True)]
    assert np.sqrt(np.square(errors).mean()) == pytest.approx(FLOOR * np.sqrt(8 / 9), rel=0.1)
    assert found.changed == () and found.failed == () and found.num_calls == step + 1


def test_the_mean_of_the_last_step_is_the_known_geometry_itself():
    known = [blob(9), blob(5, seed=3)]
    found = relax_from(
        exact(known), [shaken(one) for one in known], step=50, ending="mean", generator=generator_from("m")
    )
    for one, made in zip(known, found.molecules, strict=True):
        assert aligned_rmsd(one.positions, made.positions) < 1e-4


def test_frames_are_one_more_than_the_start_step_and_mean_free():
    known = blob(6)
    run = relax_from(exact([known]), [known], step=20, generator=generator_from("f")).trajectories[0]
    assert len(run.positions) == len(run.predicted_elements) == 21 and run.steps.tolist() == [*range(19, -1, -1), -1]
    assert np.abs(run.positions.mean(axis=1)).max() < 1e-12


def test_two_equal_molecules_of_a_batch_do_not_share_noise_and_a_batch_does_not_change_a_molecule():
    known = blob(7)
    both = relax_from(exact([known, known]), [known, known], step=10, generator=generator_from("n")).trajectories
    assert np.abs(both[0].positions[0] - both[1].positions[0]).max() > 1e-3
    mixed = [known, blob(4, seed=9)]
    again = relax_from(exact(mixed), mixed, step=10, generator=generator_from("n")).trajectories[0]
    np.testing.assert_allclose(both[0].positions, again.positions, atol=1e-12)


def test_the_level_can_be_given_in_angstrom():
    known = blob(5)
    by_sigma = relax_from(exact([known]), [known], sigma=0.0707, generator=generator_from("s"))
    assert by_sigma.num_calls == 51
    with pytest.raises(InvalidInput, match="either sigma"):
        relax_from(exact([known]), [known], sigma=0.05, step=3, generator=generator_from("s"))
    with pytest.raises(InvalidInput, match="Z"):
        relax_from(exact([known]), [Molecule([16, 1], [[0, 0, 0], [1.3, 0, 0]])], step=3, generator=generator_from("s"))


@pytest.mark.parametrize("size", [3, 9])
def test_the_chain_on_the_spot_has_the_variance_of_its_autoregression(size):
    """v without turning, v (3N - 6) / 3N with it; 40 copies of 1,200 steps: error bar below 3 %."""
    known = blob(size, seed=size)
    step, copies = 20, 40
    expected = boltzmann.stationary_variance(float(sigma(TABLE[step])), float(sigma(TABLE[step - 1])))
    assert expected == pytest.approx(3.84e-4, rel=0.02)
    for turn, factor in ((False, (size - 1) / size), (True, (3 * size - 6) / (3 * size))):
        frames = walk_on_the_spot(
            exact([known] * copies, turn=turn),
            [known] * copies,
            step=step,
            num_steps=1500,
            generator=generator_from("w"),
        )[300:].reshape(-1, copies, size, 3)
        signal = float(torch.sqrt(1 - sigma(TABLE[step]) ** 2))
        if turn:
            frames = np.stack([[superpose(f, known.positions) for f in frames[::20, k]] for k in range(0, copies, 2)])
            signal = 1.0
        variance = np.square(frames - signal * known.positions).mean()
        assert variance == pytest.approx(expected * factor, rel=0.1), turn


def test_a_chain_of_which_no_frame_would_be_kept_is_refused():
    known = blob(3, seed=3)
    with pytest.raises(InvalidInput, match=r"thin must lie in 1..4, the number of steps, got 5"):
        walk_on_the_spot(exact([known]), [known], step=20, num_steps=4, generator=generator_from("w"), thin=5)


def test_the_null_of_the_elements_follows_from_scale_and_schedule():
    """100 molecules of 19 atoms: half of the molecules final with 50 steps left, 90 % of the atoms with 61."""
    random = np.random.default_rng(0)
    known = [Molecule(random.choice([1, 6, 7, 8, 9], size=19), random.normal(size=(19, 3))) for _ in range(100)]
    runs = generate(exact(known), [19] * 100, generator=generator_from("null"))
    settled = np.stack([phases.final_step(run.elements, run.steps) for run in runs])
    assert np.median(phases.molecule_final(settled)) == pytest.approx(50, abs=4)
    assert np.quantile(settled, 0.1) == pytest.approx(61, abs=4)
    guessed = np.stack([phases.final_step(run.predicted_elements, run.steps) for run in runs])
    assert (guessed == CONFIG.num_steps - 1).all()


def test_a_network_can_take_the_place_of_the_exact_denoiser():
    edm = build(EdmConfig(width=16, num_layers=2))
    molecules = [blob(5), blob(8, seed=2)]
    for name in ("ancestral", "ddim", "sde-2m"):
        found = relax_from(
            NetworkDenoiser(edm),
            molecules,
            step=5,
            sampler=SAMPLERS[name],
            keep_elements=True,
            generator=generator_from("k"),
        )
        assert found.changed == () and all(len(run.positions) == 6 for run in found.trajectories)
        np.testing.assert_allclose(found.molecules[0].positions.mean(0), molecules[0].positions.mean(0), atol=1e-6)
