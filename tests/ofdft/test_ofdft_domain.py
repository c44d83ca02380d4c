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


def test_small_molecules_of_known_elements_are_served_where_the_weights_say_so():
    domain = ("CH2O: 2 C-H, 1 C-O", "CHN: 1 C-H, 1 C-N")
    known = compositions()
    acetonitrile, propane = known[9], known[12]
    assert (acetonitrile.formula, propane.formula) == ("C2H3N", "C3H8")
    require_kind(acetonitrile, domain, most_heavy_atoms=3)
    require_kind(propane, domain, most_heavy_atoms=3)
    for refused, most in ((propane, 2), (known[-2], 5), (propane, 0)):
        with pytest.raises(InvalidInput, match="others it gets wrong"):
            require_kind(refused, domain, most_heavy_atoms=most)
    apart = Molecule(np.array([8, 1, 1]), np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [0.0, 0.0, 4.0]]))
    with pytest.raises(InvalidInput, match="connected molecules of C, H, N, O with up to 5 heavy atoms"):
        require_kind(apart, domain, most_heavy_atoms=5)
