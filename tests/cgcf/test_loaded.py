"""Shared weights are read once."""

import pytest

from molkit.cgcf.loaded import shared_energy, shared_flow
from molkit.errors import DataNotFound


def test_a_name_is_read_once_and_a_wrong_one_is_said_every_time():
    assert shared_flow("cgcf_qm9") is shared_flow("cgcf_qm9") and shared_energy("etm_qm9") is shared_energy("etm_qm9")
    assert not any(parameter.requires_grad for parameter in shared_flow("cgcf_qm9").flow.parameters())
    for load in (shared_flow, shared_energy):
        for _ in range(2):
            with pytest.raises(DataNotFound, match="no folder"):
                load("no_such_weights")
