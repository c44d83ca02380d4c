import numpy as np
import pytest

from molkit.data.packed import centred_positions, read_packed, write_arrays, write_packed
from molkit.data.registry import load_arrays
from molkit.errors import DataNotFound, InvalidInput
from molkit.molecule import Molecule, PackedMolecules


def random_molecules(spread: float = 2.0, count: int = 20) -> PackedMolecules:
    random = np.random.default_rng(0)
    sizes = random.integers(1, 30, count)
    return PackedMolecules(
        sizes, random.integers(1, 10, sizes.sum()), random.normal(5.0, spread, (sizes.sum(), 3)).clip(-6, 16)
    )


def test_small_molecules_come_back_centred_within_half_a_unit_of_int16(tmp_path):
    molecules = random_molecules(spread=0.8)
    write_packed(tmp_path / "set.npz", molecules)
    back = read_packed(tmp_path / "set.npz")

    assert load_arrays(tmp_path / "set.npz")["position_bytes"].shape[0] == 2
    np.testing.assert_array_equal(back.num_atoms, molecules.num_atoms)
    np.testing.assert_array_equal(back.atomic_numbers, molecules.atomic_numbers)
    assert np.abs(back.positions - centred_positions(molecules)).max() <= 1.25e-4 * (1 + 1e-9)


def test_large_molecules_are_kept_to_half_of_1e5_angstrom(tmp_path):
    molecules = random_molecules(spread=30.0)
    write_packed(tmp_path / "set.npz", molecules)
    back = read_packed(tmp_path / "set.npz")

    assert load_arrays(tmp_path / "set.npz")["position_bytes"].shape[0] == 4
    assert np.abs(back.positions - centred_positions(molecules)).max() <= 0.5e-5 * (1 + 1e-9)


def test_packing_what_was_unpacked_gives_the_same_bytes(tmp_path):
    write_packed(tmp_path / "one.npz", random_molecules(), label=np.arange(3))
    write_packed(tmp_path / "two.npz", random_molecules(), label=np.arange(3))
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.npz", "two.npz"]


def test_charges_and_isotopes_travel_along(tmp_path):
    places = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    some = [Molecule([8, 1], places, charge=-1, isotopes=[0, 2]), Molecule([9, 1], places)]
    write_packed(tmp_path / "set.npz", PackedMolecules.from_molecules(some))
    back = read_packed(tmp_path / "set.npz")
    assert back.charges.tolist() == [-1, 0] and back.isotopes.tolist() == [0, 2, 0, 0]


def test_names_and_extra_arrays_travel_along(tmp_path):
    molecules = PackedMolecules.from_molecules([Molecule(np.array([1, 1]), np.eye(3)[:2], name="hydrogen")])
    write_packed(tmp_path / "set.npz", molecules, energy=np.array([-1.17]))
    assert read_packed(tmp_path / "set.npz")[0].name == "hydrogen"
    assert load_arrays(tmp_path / "set.npz")["energy"] == -1.17


def test_no_molecules_make_an_empty_file_that_reads_back(tmp_path):
    write_packed(tmp_path / "set.npz", PackedMolecules.from_molecules([]))
    assert len(read_packed(tmp_path / "set.npz")) == 0


def test_a_key_of_the_format_cannot_be_an_extra_array(tmp_path):
    with pytest.raises(InvalidInput, match="owns the key 'num_atoms'"):
        write_packed(tmp_path / "set.npz", random_molecules(), num_atoms=np.arange(3))
    assert not list(tmp_path.iterdir())


def test_positions_that_are_not_finite_are_refused_and_leave_nothing(tmp_path):
    molecules = random_molecules()
    molecules.positions[3, 1] = np.nan
    with pytest.raises(InvalidInput, match="not finite"):
        write_packed(tmp_path / "set.npz", molecules)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cut", [0, 10, 300])
def test_a_truncated_file_is_named(tmp_path, cut):
    path = tmp_path / "set.npz"
    write_packed(path, random_molecules())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InvalidInput, match="set.npz is not a readable .npz"):
        read_packed(path)


def test_other_arrays_and_wrong_counts_are_refused_with_the_name_of_the_file(tmp_path):
    path = tmp_path / "set.npz"
    write_arrays(path, {"x": np.zeros(3)})
    with pytest.raises(InvalidInput, match=r"set.npz: expected packed molecules with the key 'num_atoms', got \['x'\]"):
        read_packed(path)
    write_packed(path, random_molecules())
    write_arrays(path, load_arrays(path) | {"num_atoms": np.array([7], dtype=np.uint8)})
    with pytest.raises(InvalidInput, match="set.npz: 7 atoms announced"):
        read_packed(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataNotFound, match="nowhere.npz"):
        read_packed(tmp_path / "nowhere.npz")


def test_pickled_arrays_and_archives_that_unpack_to_too_much_are_refused(tmp_path):
    np.savez(tmp_path / "pickled.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InvalidInput, match="pickled.npz is not a readable .npz of plain arrays"):
        load_arrays(tmp_path / "pickled.npz")
    write_arrays(tmp_path / "bomb.npz", {"x": np.zeros(1_000_000, np.uint8)})
    with pytest.raises(InvalidInput, match="would unpack to 1,000,128 bytes, more than the 500,000 allowed"):
        load_arrays(tmp_path / "bomb.npz", max_bytes=500_000)
