"""The stored study of water: read strictly, written whole, and arms that differ from the recipe in what they say."""

import pytest

from molkit.errors import DataNotFound, InvalidInput
from molkit.studies.ofdft_water import (
    ARMS,
    STARTS,
    ArmRun,
    StartResult,
    WaterStudy,
    arm_recipe,
    stored_study,
    write_study,
)


def study_of(arms):
    column = StartResult([5.0, 6.0], [0.1, -0.3], [0.1, -0.3], [1e-3, 1e-3], [0.0, 0.0], [4, 5], [True, False])
    runs = [ArmRun(arm, seed, 0.1, 0.5, 20, dict.fromkeys(STARTS, column), 1.0) for arm in arms for seed in (0, 1)]
    return WaterStudy(tuple(runs), 70, 2, 3.0, {"commit": None})


def test_a_study_comes_back_from_disk(tmp_path):
    write_study(study_of(["full", "plain"]), tmp_path / "a.json")
    again = stored_study(tmp_path / "a.json")
    assert again.arms == ["full", "plain"] and len(again.of_arm("full")) == 2
    assert abs(again.error("full", "MINAO").value - 0.2) < 1e-12


def test_absent_and_damaged_studies_are_named(tmp_path):
    with pytest.raises(DataNotFound, match="ofdft-water"):
        stored_study(tmp_path / "none.json")
    (tmp_path / "a.json").write_text('{"runs": []}')
    with pytest.raises(InvalidInput, match="study of water"):
        stored_study(tmp_path / "a.json")


def test_an_arm_changes_what_it_names_and_nothing_else():
    full, other = arm_recipe("full", seed=1), arm_recipe("no gradient labels", seed=1)
    assert full.training == other.training and full.model == other.model and full.training.seed == 1
    assert other.data.gradient_weight == 0.0 and full.data.gradient_weight == 1.0
    assert len({str(arm_recipe(arm, seed=0)) for arm in ARMS}) == len(ARMS)
    with pytest.raises(InvalidInput, match="full"):
        arm_recipe("nothing", seed=0)
