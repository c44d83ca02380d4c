"""Alkanes beyond the training: weights that validation chose, errors, and files."""

import pytest

from molkit.errors import DataNotFound, InvalidInput
from molkit.figures import ofdft_small as draw
from molkit.studies import ofdft_extrapolation as study
from molkit.studies import ofdft_small as small
from molkit.training.weights import WEIGHTS_ROOT


def run_of(arm, seed, chosen):
    return small.SmallRun(arm, seed, (small.Snapshot(chosen, 1.0, 1.0),), chosen, {}, 0.0)


def stored_runs(*runs):
    return small.SmallStudy(runs, {}, {}, 1, 1, {})


def test_methane_is_minimised_and_asked_without_a_density():
    weights = WEIGHTS_ROOT / "ofdft_small"
    found = [study.chain_error(weights, arm, 0, 1, -40.0) for arm in ("full", "geometry")]
    assert found[0].converged and found[0].minimised < found[0].predicted and found[0].num_atoms == 5
    assert found[1].steps == 0 and found[1].minimised == found[1].predicted


def test_weights_are_those_of_the_chosen_step(tmp_path):
    folder = small.run_folder(tmp_path, "full", 0) / "snapshots" / "step_00000500"
    folder.mkdir(parents=True)
    known = stored_runs(run_of("full", 0, 500), run_of("full", 1, 2000))
    assert study.chosen_weights(known, tmp_path, "full", 0) == folder
    assert study.chosen_weights(known, tmp_path, "full", 1) == small.run_folder(tmp_path, "full", 1)
    with pytest.raises(InvalidInput, match="no run of arm"):
        study.chosen_weights(known, tmp_path, "geometry", 0)


def test_a_study_is_written_read_and_drawn(tmp_path):
    entries = [
        study.ChainError(arm, 0, size, 3 * size + 2, 2.0 * size, 1.0 * size, 0.1, 9, True)
        for arm in ("full", "geometry")
        for size in (1, 2, 3)
    ]
    study.write_study(study.ExtrapolationStudy(tuple(entries), {"1": -40.0}, {}), tmp_path / "a.json")
    again = study.stored_study(tmp_path / "a.json")
    assert again.arms == ["full", "geometry"] and [e.num_carbons for e in again.of_arm("full")] == [1, 2, 3]
    assert len(draw.chains_figure(again).axes[0].lines) == 3
    with pytest.raises(DataNotFound, match="ofdft-extrapolation"):
        study.stored_study(tmp_path / "none.json")
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(InvalidInput, match="not a study of alkanes"):
        study.stored_study(tmp_path / "b.json")
