from pathlib import Path

import numpy as np
import pytest

from molkit.data.drug_size import load_conformer_ensembles, load_druglike, load_tripeptides
from molkit.data.geom_drugs import load_geom_test
from molkit.data.md17 import RMD17_AT_HAND, load_rmd17
from molkit.data.pdb import load_pdb, read_pdb
from molkit.data.registry import listed_checksums, read_card, section_of
from molkit.errors import DataNotFound, InvalidInput


@pytest.mark.parametrize("name", RMD17_AT_HAND)
def test_rmd17_splits_are_disjoint_thousands_and_no_net_force_acts(name):
    train, test = load_rmd17(name, split="train"), load_rmd17(name, split="test")
    assert len(train) == len(test) == 1_000
    assert not set(train.energies.tolist()) & set(test.energies.tolist())
    assert train.energy_unit == "kcal/mol"
    assert np.abs(train.forces.sum(axis=1)).max() < 2e-3  # kcal/mol/angstrom


@pytest.mark.parametrize("name", RMD17_AT_HAND)
def test_energies_of_close_frames_differ_by_minus_force_times_displacement(name):
    """A finite difference over the 100 closest pairs of frames checks units and signs of energies and forces."""
    frames = load_rmd17(name, split="train")
    flat = frames.positions.reshape(len(frames), -1)
    squared = np.square(flat).sum(1)[:, None] + np.square(flat).sum(1) - 2 * flat @ flat.T
    np.fill_diagonal(squared, np.inf)
    one, two = np.unravel_index(np.argsort(squared, axis=None)[:200:2], squared.shape)
    offset = frames.positions[one] - frames.positions[two]
    predicted = -(0.5 * (frames.forces[one] + frames.forces[two]) * offset).sum((1, 2))
    difference = frames.energies[one] - frames.energies[two]
    assert np.corrcoef(predicted, difference)[0, 1] > 0.96
    assert predicted @ difference / (difference @ difference) == pytest.approx(1.0, abs=0.06)


def write_release(folder, num_frames=5, **changed):
    """The layout of the authors' archive of rMD17, in small: `changed` replaces arrays of aspirin, None drops one."""
    random = np.random.default_rng(0)
    arrays = {
        "nuclear_charges": np.array([6] * 9 + [8] * 4 + [1] * 8, dtype=np.uint8),
        "coords": random.normal(size=(num_frames, 21, 3)),
        "energies": random.normal(size=num_frames),
        "forces": random.normal(size=(num_frames, 21, 3)),
        **changed,
    }
    for name in ("npz_data", "splits"):
        (folder / name).mkdir()
    np.savez(folder / "npz_data" / "rmd17_aspirin.npz", **{k: v for k, v in arrays.items() if v is not None})
    (folder / "splits" / "index_train_01.csv").write_text("3\n0\n")
    return arrays


def test_the_release_of_rmd17_is_read_with_its_published_splits(tmp_path):
    arrays = write_release(tmp_path)
    train = load_rmd17("aspirin", split="train", release=tmp_path)
    np.testing.assert_array_equal(train.positions, arrays["coords"][[3, 0]])
    np.testing.assert_array_equal(train.energies, arrays["energies"][[3, 0]])
    assert train.molecule(0).formula == "C9H8O4" and len(load_rmd17("aspirin", release=tmp_path)) == 5


def test_a_release_with_missing_or_impossible_parts_is_refused_in_one_line(tmp_path):
    write_release(tmp_path, forces=None)
    with pytest.raises(InvalidInput, match="rmd17_aspirin.npz has no array 'forces'"):
        load_rmd17("aspirin", release=tmp_path)
    with pytest.raises(InvalidInput, match="aspirin of rMD17 does not come with molkit"):
        load_rmd17("aspirin")
    other = tmp_path / "other"
    other.mkdir()
    write_release(other, num_frames=3)
    with pytest.raises(InvalidInput, match="frame 3 does not exist, aspirin has 3"):
        load_rmd17("aspirin", split="train", release=other)
    with pytest.raises(DataNotFound, match="no split of rMD17"):
        load_rmd17("aspirin", split="test", release=other)


def test_conformer_ensembles_hold_what_the_card_says():
    ensembles = load_conformer_ensembles()
    assert len(ensembles) == 708 and sum(map(len, ensembles)) == 6_759
    for ensemble in ensembles[::50]:
        first = ensemble.molecule(0)
        assert ensemble.positions.shape == (len(ensemble), first.num_atoms, 3)
        assert ensemble.bonds[:, :2].max() < first.num_atoms
        i, j = ensemble.bonds[:, 0], ensemble.bonds[:, 1]
        lengths = np.linalg.norm(ensemble.positions[:, i] - ensemble.positions[:, j], axis=-1)
        assert lengths.min() > 0.8 and lengths.max() < 2.6  # angstrom: atoms and bonds belong together
    assert len(load_conformer_ensembles(limit=3)) == 3
    with pytest.raises(InvalidInput, match="no energies by 'pm7'"):
        ensembles[0].energies_by("pm7")


def test_larger_molecules_have_their_counts():
    assert (len(load_druglike()), len(load_tripeptides())) == (837, 244)
    assert load_tripeptides().num_atoms.max() == 70


def test_geom_test_sets_have_a_thousand_molecules_each():
    drugs = load_geom_test("drugs")
    assert len(drugs) == len(load_geom_test("qm9")) == 1_000
    assert min(molecule.num_reference_conformers for molecule in drugs) >= 1


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("chignolin", "C48H61N11O18"),
        ("cln025", "C62H73N11O20"),
        ("trp_cage", "C98H150N27O29"),
        ("alanine_dipeptide", "C6H12N2O2"),
    ],
)
def test_the_structures_have_all_their_atoms(name, formula):
    assert load_pdb(name).formula == formula


def test_a_broken_pdb_line_is_named(tmp_path):
    (tmp_path / "bad.pdb").write_text(
        "ATOM      1  N   ASN A   1      -8.901   4.1x7  -0.555  1.00  0.00           N\n"
    )
    with pytest.raises(InvalidInput, match="bad.pdb, line 1"):
        read_pdb(tmp_path / "bad.pdb")
    (tmp_path / "empty.pdb").write_text("END\n")
    with pytest.raises(InvalidInput, match="no ATOM"):
        read_pdb(tmp_path / "empty.pdb")


def test_of_alternate_locations_the_likelier_is_kept():
    ours = read_pdb(Path(__file__).parents[1] / "cases" / "altloc.pdb")
    assert ours.symbols == ["N", "C"]
    np.testing.assert_allclose(ours.positions, [[11, 10, 10], [12, 11, 10]])


def test_the_location_of_a_residue_is_chosen_by_occupancy_not_by_order(tmp_path):
    text = (Path(__file__).parents[1] / "cases" / "altloc.pdb").read_text()
    first, second, *rest = text.split("\n")
    (tmp_path / "b.pdb").write_text(
        "\n".join([first.replace("0.50 10", "0.30 10"), second.replace("0.50", "0.70"), *rest])
    )
    np.testing.assert_allclose(read_pdb(tmp_path / "b.pdb").positions[0], [11.3, 10.1, 10])


@pytest.mark.parametrize("call", [load_rmd17, load_geom_test, load_pdb])
def test_unknown_names_are_refused_with_the_choices(call):
    with pytest.raises(InvalidInput, match="unknown .* 'caffeine': expected"):
        call("caffeine")


def test_the_card_describes_every_file():
    for name in listed_checksums():
        assert section_of(name).text
    assert any("qm9_full.npz" in section.files for section in read_card())
