"""Shared weights are read once."""

import re

import pytest

from molkit.cgcf.loaded import shared_energy, shared_flow
from molkit.cli import run
from molkit.errors import DataNotFound, InvalidInput


def test_a_name_is_read_once_and_a_wrong_one_is_said_every_time():
    assert shared_flow("cgcf_qm9") is shared_flow("cgcf_qm9") and shared_energy("etm_qm9") is shared_energy("etm_qm9")
    assert not any(parameter.requires_grad for parameter in shared_flow("cgcf_qm9").flow.parameters())
    for load in (shared_flow, shared_energy):
        for _ in range(2):
            with pytest.raises(DataNotFound, match="no folder"):
                load("no_such_weights")


def test_an_energy_of_another_flow_is_refused_before_the_work(tmp_path, capfd):
    assert shared_energy("etm_qm9", "cgcf_qm9").config.flow == "cgcf_qm9"
    with pytest.raises(InvalidInput, match="etm_drug tilts cgcf_drug, not cgcf_qm9"):
        shared_energy("etm_drug", "cgcf_qm9")
    out = tmp_path / "out.sdf"
    assert run(["conformers", "CCO", "-n", "1", "--etm", "etm_drug", "--out", str(out)]) == 2
    seen = capfd.readouterr()
    assert re.search("etm_drug tilts cgcf_drug, not cgcf_qm9", seen.err) and not seen.out and not out.exists()
