"""Molecules beyond the training: which ones, errors, and files."""

import pytest

from molkit.errors import DataNotFound, InvalidInput
from molkit.figures import ofdft_folds as draw
from molkit.ofdft.geometries import LARGER_SIZES, geometry
from molkit.studies import ofdft_extrapolation as study
from molkit.training.weights import WEIGHTS_ROOT


def test_methane_is_minimised_and_asked_without_a_density():
    weights = WEIGHTS_ROOT / "ofdft_small"
    found = [study.size_error(weights, arm, "alkane", 1, -40.0) for arm in ("full", "geometry")]
    assert found[0].converged and found[0].minimised < found[0].predicted and found[0].num_atoms == 5
    assert found[1].steps == 0 and found[1].minimised == found[1].predicted
    assert {entry.num_heavy for entry in found} == {1}


def test_an_earlier_study_gives_its_energies_and_other_arms(tmp_path):
    old = study.SizeError("old", "alkane", 1, 5, 2.0, 1.0, 0.1, 9, True)
    stamp = {"commit": "a", "dirty": False, "machine": "b"}
    earlier = study.ExtrapolationStudy((old,), {"alkane-001": -40.0, "alkane-002": -79.0}, stamp)
    weights, none = {"new": WEIGHTS_ROOT / "ofdft_small"}, tmp_path / "none"
    found = study.run_study(weights, {"alkane": [1]}, keep=none, earlier=earlier)
    assert found.arms == ["old", "new"] and found.of("old", "alkane") == [old] and not none.exists()
    assert found.energies == {"alkane-001": -40.0} and found.stamp["earlier"] == [stamp]


def test_larger_molecules_of_qm9_come_size_by_size_and_are_never_trained_on():
    found = [study.member("QM9", number) for number in range(2 * len(LARGER_SIZES))]
    assert [int((m.atomic_numbers > 1).sum()) for m in found] == [*LARGER_SIZES, *LARGER_SIZES]
    assert len({m.positions.tobytes() for m in found}) == len(found)
    with pytest.raises(InvalidInput, match="test geometries"):
        geometry("beyond_five", "train", 0)


def test_larger_molecules_are_minimised_against_an_energy_made_now():
    ((formula, entry),) = study.live_larger("ofdft_up_to_five", count=1, grid_level=1, first=20)
    assert entry.num_heavy == 6 and entry.converged and formula.startswith("C")
    assert abs(entry.minimised) < 40.0 and f"{formula}</th>" in draw.live_table([(formula, entry)]).data


def test_a_study_is_written_read_and_drawn(tmp_path):
    entries = [
        study.SizeError(arm, family, size, 3 * size + 2, 2.0 * size, 1.0 * size, 0.1, 9, True)
        for arm in ("full", "geometry")
        for family in ("alkane", "peptide")
        for size in (3, 2, 1)
    ]
    study.write_study(study.ExtrapolationStudy(tuple(entries), {"alkane-001": -40.0}, {}), tmp_path / "a.json")
    again = study.stored_study(tmp_path / "a.json")
    assert again.arms == ["full", "geometry"] and [e.num_heavy for e in again.of("full", "alkane")] == [1, 2, 3]
    assert len(draw.sizes_figure(again).axes) == len(study.FAMILIES)
    with pytest.raises(DataNotFound, match="ofdft-extrapolation"):
        study.stored_study(tmp_path / "none.json")
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(InvalidInput, match="not a study of larger molecules"):
        study.stored_study(tmp_path / "b.json")
