"""Which molecules published weights serve."""

import numpy as np
import pytest

from molkit.errors import InvalidInput
from molkit.molecule import Molecule
from molkit.ofdft.attention_functional import load
from molkit.ofdft.domain import kind_of, require_kind
from molkit.ofdft.geometries import compositions, geometry


def test_an_isomer_is_told_by_its_bonds():
    ether = compositions()[14]
    assert ether.formula == "C2H6O" and kind_of(ether) == "C2H6O: 6 C-H, 2 C-O"
    domain = load("ofdft_ethanol").config.domain
    require_kind(geometry("ethanol", "test", 0), domain)
    with pytest.raises(InvalidInput, match="2 C-O"):
        require_kind(ether, domain)


def test_the_ten_compositions_are_those_of_their_weights():
    domain = load("ofdft_small").config.domain
    for index in range(10):
        require_kind(geometry("small", "test", index), domain)
    with pytest.raises(InvalidInput, match="this functional is for CH4"):
        require_kind(geometry("ethanol", "test", 0), domain)


def test_atoms_far_apart_have_no_bond():
    apart = Molecule(np.array([1, 9]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 4.0]]))
    with pytest.raises(InvalidInput, match="FH: no bond"):
        require_kind(apart, ("FH: 1 F-H",))
