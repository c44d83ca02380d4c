"""Packed label sets: what comes back, what a training makes of it, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from molkit.cli import run
from molkit.data.packed import write_arrays
from molkit.data.registry import load_arrays, read_npz
from molkit.errors import DataNotFound, InvalidInput
from molkit.ofdft.attention import AttentionConfig
from molkit.ofdft.attention_training import AttentionData, AttentionRecipe, channel_samples, train_attention
from molkit.ofdft.basis import basis_fingerprint
from molkit.ofdft.channels import fit_channels, prepare_molecule
from molkit.ofdft.geometries import geometry
from molkit.ofdft.integrals import density_integrals
from molkit.ofdft.label_files import LabelSettings, generate, load_folder
from molkit.ofdft.label_packs import load_labels, read_pack, thinned, write_pack
from molkit.ofdft.labels import FrozenSampling
from molkit.training.config import TrainConfig

CONFIG = AttentionConfig(counts=(3, 2), width=8, num_layers=1, num_heads=2, num_gaussians=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("labels")
    generate("small", "train", range(3), found, settings=LabelSettings(FrozenSampling(count=2), grid_level=0))
    return found


@pytest.fixture(scope="module")
def labelled(folder):
    return load_folder(folder, "small", "train")


@pytest.fixture(scope="module")
def pack(labelled, tmp_path_factory):
    path = tmp_path_factory.mktemp("pack") / "small.npz"
    write_pack(path, labelled, name="small", split="train", samples=4)
    return path


def test_the_ground_state_and_the_energies_come_back(labelled, pack):
    name, split, found = read_pack(pack)
    assert (name, split, len(found)) == ("small", "train", 3)
    for entry, before in zip(found, labelled, strict=True):
        np.testing.assert_array_equal(entry.molecule.positions, before.molecule.positions)
        assert entry.molecule.name == before.molecule.name and len(entry.labels) == 4
        assert entry.energy == before.energy and entry.nuclear == before.nuclear
        ground, wanted = (e.labels.coefficients[e.ground_state] for e in (entry, before))
        np.testing.assert_allclose(ground, wanted, rtol=1e-7)
        np.testing.assert_allclose(entry.guess, before.guess, atol=6e-4 * np.abs(before.guess - wanted).max())


def test_samples_are_spread_over_the_energies(labelled, tmp_path):
    entry = labelled[0]
    found = thinned(entry, 3)
    excess = found.labels.electronic - entry.labels.electronic[entry.ground_state]
    assert excess[found.ground_state] == 0.0 and (excess <= 0.4).all() and len(set(excess)) == 3
    write_pack(tmp_path / "one.npz", labelled, name="small", split="train", samples=1)
    assert [len(entry.labels) for entry in read_pack(tmp_path / "one.npz")[2]] == [1, 1, 1]
    assert len(thinned(entry, 1000).labels) <= len(entry.labels)


def test_both_targets_of_a_training_have_their_values_and_slopes(labelled, pack):
    for entry, before in zip(read_pack(pack)[2], (thinned(entry, 4) for entry in labelled), strict=True):
        integrals = density_integrals(entry.molecule)
        for target in ("TsExc", "total"):
            ours, theirs = (e.labels.target_gradient(target, integrals) for e in (entry, before))
            scale = np.abs(before.labels.target_gradient("total", integrals)).max(1, keepdims=True)
            moved = np.abs(integrals.coulomb @ (entry.labels.coefficients - before.labels.coefficients).T).T
            assert (np.abs(ours - theirs) <= 6e-4 * scale + 1.001 * moved + 1e-9).all()
            values = [e.labels.value(target, integrals) for e in (entry, before)]
            np.testing.assert_allclose(*values, atol=2e-2 if target == "TsExc" else 0.0)
        with pytest.raises(InvalidInput, match="Ts needs"):
            entry.labels.value("Ts", integrals)
        with pytest.raises(InvalidInput, match="Ts_res needs"):
            entry.labels.select(np.array([0])).target_gradient("Ts_res", integrals)


def test_a_training_sees_the_same_samples(labelled, pack):
    """Energies and slopes in channels, relative to what a loss counts."""
    parts = [
        [prepare_molecule(e, ceiling=0.4) for e in es] for es in (map(thinned, labelled, [4] * 3), read_pack(pack)[2])
    ]
    reduction = fit_channels(parts[0], CONFIG.layout, floor=0.01)
    before, after = (channel_samples(reduction, part) for part in parts)
    weights = 1.0 / (0.01 + before.excess)
    assert (weights * np.abs(after.energy - before.energy)).max() < 0.01
    missed = np.linalg.norm((after.gradient - before.gradient).reshape(len(weights), -1), axis=1)
    assert (np.sqrt(weights) * missed).max() < 0.1


def test_a_functional_is_trained_from_a_pack(pack, tmp_path):
    recipe = AttentionRecipe(
        data=AttentionData(folder=str(pack), name="small"),
        model=CONFIG,
        training=TrainConfig(total_steps=2, batch_pairs=60, precision="float32"),
    )
    assert train_attention(recipe, out=tmp_path, progress_bar=False).finished
    with pytest.raises(InvalidInput, match="holds labels of small, split train; asked for water, train"):
        train_attention(replace(recipe, data=AttentionData(folder=str(pack), name="water")), out=tmp_path / "other")


def test_a_folder_is_read_as_before(folder, labelled):
    (found,) = load_labels(folder, "small", "train", limit=1)
    np.testing.assert_array_equal(found.labels.gradient, labelled[0].labels.gradient)


def test_the_pack_that_comes_with_the_repository_is_of_this_basis():
    arrays = read_npz("density_labels_up_to_five.npz")
    assert str(arrays["basis"]) == basis_fingerprint() and len(arrays["names"]) == 174
    energies = np.split(arrays["electronic"], np.cumsum(arrays["num_samples"])[:-1])
    assert max(np.ptp(values) for values in energies) < 0.4
    first = geometry("up_to_five", "train", 0)
    np.testing.assert_array_equal(arrays["positions"][: first.num_atoms], first.positions)


def test_bad_packs_are_refused(pack, labelled, tmp_path):
    arrays = load_arrays(pack)
    other = tmp_path / "other.npz"
    write_arrays(other, arrays | {"basis": np.array("0123456789abcdef")})
    with pytest.raises(InvalidInput, match="its density basis is 0123456789abcdef"):
        read_pack(other)
    write_arrays(other, {key: value for key, value in arrays.items() if key != "slopes"})
    with pytest.raises(InvalidInput, match="slopes is missing"):
        read_pack(other)
    write_arrays(other, arrays | {"slopes": arrays["slopes"][:-1]})
    with pytest.raises(InvalidInput, match="do not belong together"):
        read_pack(other)
    other.write_bytes(pack.read_bytes()[:2000])
    with pytest.raises(InvalidInput, match="not a readable"):
        read_pack(other)
    with pytest.raises(DataNotFound):
        read_pack(tmp_path / "none.npz")
    with pytest.raises(InvalidInput, match=r"cannot write .*a\.npz: No such file or directory; choose a folder"):
        write_pack(tmp_path / "no folder" / "a.npz", labelled, name="small", split="train", samples=1)
    for entries, samples in (([], 3), (labelled, 0)):
        with pytest.raises(InvalidInput, match="needs molecules and a sample"):
            write_pack(other, entries, name="small", split="train", samples=samples)


def test_the_command_packs_a_folder(folder, tmp_path, capsys):
    out = tmp_path / "set.npz"
    assert run(["labels-pack", str(folder), "small", "--samples", "2", "--limit", "2", "--out", str(out)]) == 0
    assert "2 molecules" in capsys.readouterr().out and [len(e.labels) for e in read_pack(out)[2]] == [2, 2]
    assert run(["labels-pack", str(folder), "small", "--out", str(tmp_path / "set.txt")]) == 2
    assert "must end in .npz" in capsys.readouterr().err
