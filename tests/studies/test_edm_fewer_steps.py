"""The study of fewer steps: paired losses, its file, what a step costs, and that a small one runs and resumes."""

import base64
import json
from dataclasses import replace

import numpy as np
import pytest

from molkit.data.qm9 import load_qm9
from molkit.edm import farm
from molkit.edm.samplers import ANCESTRAL, DEFAULT, SAMPLERS
from molkit.errors import DataNotFound, InvalidInput
from molkit.figures import edm_fewer_steps as draw
from molkit.studies import edm_fewer_steps as study
from molkit.studies.edm_step_price import measured_steps, price_of_few_steps

WEIGHTS = "edm_qm9"


def arm(stable, *, sampler="sde-2m", calls=50, requested=None) -> study.ArmResult:
    """An arm with given flags and plausible other numbers."""
    flags = np.asarray(stable, dtype=bool)
    return study.ArmResult(
        sampler=sampler,
        calls=calls,
        requested=requested or len(flags),
        paired=len(flags),
        molecules=len(flags),
        stable_molecules=int(flags.sum()),
        stable_atoms=17 * len(flags),
        atoms=18 * len(flags),
        atom_interval=(0.9, 0.96),
        valid=len(flags) // 2,
        unique=len(flags) // 2,
        bond_distance=0.007,
        seconds=0.05,
        stable_bits=base64.b64encode(np.packbits(flags).tobytes()).decode(),
    )


@pytest.fixture(scope="module")
def flags():
    return np.random.default_rng(0).random(2000) < 0.6


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A whole study of twelve molecules an arm with the published weights."""
    folder = tmp_path_factory.mktemp("chunks")
    arms = [study.Arm(ANCESTRAL, 20, 12), study.Arm(SAMPLERS["sde-2m"], 8, 12), study.Arm(SAMPLERS["dpm-2m"], 6, 12)]
    return study.run_study(WEIGHTS, arms, seed=2000, folder=folder), arms, folder


def test_flags_come_back_from_their_bits(flags):
    np.testing.assert_array_equal(arm(flags).stable, flags)


def test_an_arm_that_does_the_same_loses_nothing(flags):
    lost = study.loss(arm(flags, calls=1001), arm(flags))
    assert (lost.interval.value, lost.interval.low, lost.interval.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-9)
    assert lost.pairs == 2000 and lost.agreement == pytest.approx(1.0) and lost.meets_the_bar


def test_over_pairs_alone_the_loss_is_the_difference_of_the_shares(flags):
    other = flags ^ (np.arange(2000) % 7 == 0)
    lost = study.loss(arm(flags), arm(other))
    assert lost.interval.value == pytest.approx(100.0 * (flags.mean() - other.mean()), abs=1e-9)
    assert lost.interval.low < lost.interval.value < lost.interval.high


def test_rows_without_a_partner_sharpen_the_loss_and_do_not_bias_it():
    """400 repetitions of 300 pairs and 1,500 further rows, correlation about 0.6, true loss 10 points: 4 errors."""
    random = np.random.default_rng(1)
    estimates, plain = [], []
    for _ in range(400):
        common = random.random(1800)
        first = np.where(random.random(1800) < 0.65, common, random.random(1800)) < 0.7
        second = np.where(random.random(1800) < 0.95, common, random.random(1800)) < 0.6
        estimates.append(study.loss(arm(first[:300]), arm(second), num_resamples=1).interval.value)
        plain.append(100.0 * (first[:300].mean() - second.mean()))
    assert np.mean(estimates) == pytest.approx(10.0, abs=4 * np.std(estimates) / 20)
    assert np.std(estimates) < 0.92 * np.std(plain)


def test_a_short_arm_is_compared_with_the_share_of_all_full_chains(flags):
    """An arm that equals the reference where both were drawn loses nothing, whatever the first rows look like."""
    lost = study.loss(arm(flags, calls=1001), arm(flags[:300]))
    assert lost.interval.value == pytest.approx(0.0, abs=1e-9) and lost.pairs == 300


def test_intervals_of_the_loss_cover_it():
    """300 repetitions; 95 % of the intervals should hold the true loss of 10 points, at least 90 % must."""
    random = np.random.default_rng(2)
    held = 0
    for _ in range(300):
        common = random.random(900)
        first, second = common < 0.7, np.where(random.random(900) < 0.6, common, random.random(900)) < 0.6
        interval = study.loss(arm(first[:300]), arm(second), num_resamples=400).interval
        held += interval.low <= 10.0 <= interval.high
    assert held >= 270


def test_arms_with_failed_chains_count_as_independent_and_the_failures_as_unstable(flags):
    lost = study.loss(arm(flags), arm(flags[:1900], requested=2000))
    assert lost.pairs == 0 and lost.agreement is None
    assert lost.interval.value == pytest.approx(100.0 * flags[1900:].sum() / 2000)


def test_the_bar_asks_for_the_value_and_for_its_upper_limit():
    words = [
        study.Loss(study.Interval(value, low, high), 10, 0.5).verdict
        for value, low, high in (
            (1.0, 0.0, 2.5),
            (1.01, 0.5, 2.0),
            (0.2, -1.0, 2.6),
            (-3.0, -4.0, -1.0),
            (3.0, 1.1, 5.0),
        )
    ]
    assert words == ["met", "open", "open", "met", "missed"]


def test_fewest_calls_stops_at_the_first_miss(flags):
    worse = flags & (np.arange(2000) % 5 > 0)
    arms = (
        arm(flags, sampler="ancestral", calls=1001),
        arm(flags, calls=100),
        arm(worse, calls=50),
        arm(flags, calls=20),
    )
    entries = replace(empty_study(), arms=arms)
    lost = study.losses(entries)
    assert study.fewest_calls(lost, "sde-2m") == 100
    assert study.fewest_calls(lost, "ddim") is None
    assert study.most_calls_that_lose(lost, "sde-2m") == 50 and study.most_calls_that_lose(lost, "ddim") is None


def empty_study() -> study.FewerSteps:
    return study.FewerSteps(WEIGHTS, "0" * 64, 0, "float32", None, "a machine", "2026-11-21T00:00:00+00:00", 0.0005, ())


def test_a_study_comes_back_from_its_file(tmp_path, flags):
    entries = replace(empty_study(), arms=(arm(flags), arm(flags, sampler="ancestral", calls=1001)))
    study.write_study(entries, tmp_path / "study.json")
    assert study.read_study(tmp_path / "study.json") == entries
    assert entries.reference.calls == 1001
    with pytest.raises(DataNotFound, match="no arm ddim with 3 calls .* there are sde-2m 50"):
        entries.arm("ddim", 3)


def test_missing_and_broken_files_are_one_line(tmp_path):
    with pytest.raises(DataNotFound, match="molkit study fewer-steps"):
        study.read_study(tmp_path / "none.json")
    for text in ("{", "[]", json.dumps({"arms": []}), json.dumps({"weights": "a"})):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InvalidInput, match="not a stored study"):
            study.read_study(tmp_path / "bad.json")


def test_the_default_arms_hold_each_setting_once_with_its_own_count():
    arms = study.default_arms(full=30, best=20, curve=12)
    names = [(entry.sampler.name, entry.num_calls) for entry in arms]
    assert len(names) == len(set(names)) and names[0] == ("ancestral", None) and arms[0].count == 30
    assert max(e.num_calls for e in study.default_arms(full=3, best=2, curve=2, largest=50) if e.num_calls) == 100
    assert {entry.count for entry in arms if (entry.sampler.name, entry.num_calls) == ("sde-2m", 250)} == {12}
    assert next(e.count for e in arms if (e.sampler.name, e.num_calls) == (DEFAULT.sampler, DEFAULT.num_calls)) == 20


def test_a_small_study_runs_and_its_pages_are_drawn(small):
    result, _, _ = small
    assert [entry.calls for entry in result.arms] == [20, 8, 6]
    for entry in result.arms:
        assert entry.molecules == entry.requested == 12 and entry.seconds > 0 and 0 < entry.stable_atoms <= entry.atoms
    assert 0 < result.data_bond_distance < min(entry.bond_distance for entry in result.arms)
    draw.quality(result)
    assert "sde-2m" in draw.arms_table(result).data and "points lost" in draw.losses_table(study.losses(result)).data
    assert "bar" in draw.verdict(result, study.losses(result), weights=WEIGHTS)


def test_a_study_resumes_from_its_chunks(small, monkeypatch):
    result, arms, folder = small
    monkeypatch.setattr(farm, "draw", lambda *_: pytest.fail("a finished chunk was drawn again"))
    again = study.run_study(WEIGHTS, arms, seed=2000, folder=folder)
    assert again.arms == result.arms


def test_only_the_first_chunks_of_an_arm_share_the_noise_of_the_full_chain(monkeypatch, tmp_path):
    monkeypatch.setattr(farm, "CHUNK", 4)
    few = study.Arm(SAMPLERS["sde-2m"], 3, 12, paired=9)
    result = study.run_arm(WEIGHTS, few, seed=2100, folder=tmp_path, reference=load_qm9(split="test", limit=50))
    parts = {(path.parents[1].name, path.name[:5]) for path in tmp_path.glob("*/results/*.npz")}
    assert result.paired == 8 and result.requested == result.molecules == 12 and result.bond_distance is None
    shared, own = "sde-2m_3_shared_seed2100", "sde-2m_3_seed2100"
    assert parts == {(shared, "00000"), (shared, "00001"), (own, "00002")}


def test_the_data_lies_at_no_distance_from_itself():
    molecules = load_qm9(split="test", limit=200)
    assert study.bond_distance(molecules, molecules) == 0.0


def test_shorter_steps_cost_less_and_no_step_that_asks_the_network_pays_back():
    few, many = (price_of_few_steps(WEIGHTS, num_calls=n, num_molecules=8, num_points=13, seed=0) for n in (50, 200))
    for name in few.chains:
        assert 0 < many.chains[name][1].sum() < few.chains[name][1].sum()
        assert few.chains[name][1][1:].min() > -0.02 * few.chains[name][1].sum()
    assert few.chains["quadratic, blind start"][1][0] < 0.2 * few.chains["quadratic"][1][0]
    draw.price(few)
    draw.grids(WEIGHTS, num_calls=20)


def test_errors_are_measured_at_both_ends_of_the_chain():
    steps = measured_steps(1000, 21)
    assert steps[0] == 0 and steps[-1] == 1000 and 990 < steps[-3] < 1000 and (np.diff(steps) > 0).all()
