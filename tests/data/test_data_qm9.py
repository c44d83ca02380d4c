import subprocess
import sys

import numpy as np
import pytest

from molkit.data.qm9 import (
    PROPERTY_UNITS,
    SIZE_HISTOGRAM,
    load_qm9,
    qm9_atom_references,
    qm9_index,
    qm9_properties,
    qm9_smiles,
    qm9_split_members,
    split_of_qm9,
)
from molkit.data.registry import load_gschnet
from molkit.errors import InvalidInput

SIZES = {"train": 98_412, "valid": 17_473, "test": 12_859, "all": 128_744}


@pytest.mark.parametrize("split", SIZES)
def test_the_split_has_the_sizes_of_the_card_and_ascends(split):
    molecules, index = load_qm9(split=split), qm9_index(split=split)
    assert len(molecules) == len(index) == SIZES[split]
    assert (np.diff(index) > 0).all()
    assert molecules.names[-1] == f"dsgdb9nsd_{index[-1]:06d}"


def test_the_published_rule_gives_the_published_split():
    members = qm9_split_members()
    split = split_of_qm9(members["uncharacterized"])
    assert {name: len(rows) for name, rows in split.items()} == {"train": 100_000, "valid": 17_748, "test": 13_083}
    for name, rows in split.items():
        np.testing.assert_array_equal(rows, members[name])
        assert set(qm9_index(split=name)) <= set(rows.tolist())


def test_none_of_the_uncharacterized_is_here():
    assert not set(qm9_index(split="all")) & set(qm9_split_members()["uncharacterized"].tolist())


def test_methane_is_where_it_was_published():
    """Coordinates of dsgdb9nsd_000001 in the original archive."""
    published = np.array(
        [
            [-0.0126981359, 1.0858041578, 0.0080009958],
            [0.002150416, -0.0060313176, 0.0019761204],
            [1.0117308433, 1.4637511618, 0.0002765748],
            [-0.540815069, 1.4475266138, -0.8766437152],
            [-0.5238136345, 1.4379326443, 0.9063972942],
        ]
    )
    methane = load_qm9(split="all", limit=1)[0]
    assert methane.formula == "CH4" and methane.name == "dsgdb9nsd_000001"
    assert np.abs(methane.positions - (published - published.mean(axis=0))).max() <= 1.26e-4


def test_molecules_are_centred_and_have_four_elements():
    molecules = load_qm9(split="all")
    sums = np.add.reduceat(molecules.positions, molecules.ptr[:-1], axis=0)
    assert np.abs(sums / molecules.num_atoms[:, None]).max() <= 1.25e-4
    numbers, counts = np.unique(molecules.atomic_numbers, return_counts=True)
    assert dict(zip(numbers.tolist(), counts.tolist(), strict=True)) == {
        1: 1_198_186,
        6: 821_806,
        7: 129_086,
        8: 181_454,
    }
    assert (molecules.num_atoms.min(), molecules.num_atoms.max()) == (3, 29)


def test_a_limit_takes_molecules_from_the_whole_range_and_not_the_small_ones_first():
    few = load_qm9(split="train", limit=500)
    every = load_qm9(split="train")
    assert len(few) == 500
    assert few.num_atoms.mean() == pytest.approx(every.num_atoms.mean(), abs=0.4)  # three standard errors
    assert few.names == load_qm9(split="train", limit=500).names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "training"}, "unknown split 'training'"),
        ({"split": "train", "limit": 0}, "a limit of 0"),
        ({"split": "train", "source": "web"}, "unknown source 'web'"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        load_qm9(**arguments)


def test_the_published_histogram_counts_the_training_split_and_ours_lies_below_it():
    assert sum(SIZE_HISTOGRAM.values()) == 100_000
    sizes, counts = np.unique(load_qm9(split="train").num_atoms, return_counts=True)
    missing = [SIZE_HISTOGRAM[size] - count for size, count in zip(sizes.tolist(), counts.tolist(), strict=True)]
    assert min(missing) >= 0 and max(missing) == 296 and sum(missing) == 1_588
    mean = sum(size * count for size, count in SIZE_HISTOGRAM.items()) / 100_000
    assert mean == pytest.approx(18.03, abs=0.005)


def test_properties_have_the_means_of_the_card_and_keep_their_identities():
    table = qm9_properties()
    expected = {"mu": 2.696, "alpha": 75.15, "homo": -0.23993, "lumo": 0.01118, "gap": 0.25111, "r2": 1189.4}
    expected |= {"zpve": 0.14849, "U0": -411.712, "Cv": 31.602}
    assert len(table["index"]) == 14_715 and table["has_geometry"].sum() == 14_170
    for name, mean in expected.items():
        assert table[name].mean() == pytest.approx(mean, rel=5e-4)
    assert set(PROPERTY_UNITS) <= set(table)
    np.testing.assert_allclose(table["gap"], table["lumo"] - table["homo"], atol=1.01e-4)
    np.testing.assert_allclose(table["H"] - table["U"], 0.000944, atol=2e-6)  # kT at 298.15 K, Ha


def test_smiles_cover_the_split_they_are_asked_for():
    everything, training = qm9_smiles(), qm9_smiles(split="train")
    assert len(everything) == 128_742 and 38_233 not in everything and 133_831 not in everything
    assert everything[1] == "C" and set(training) <= set(qm9_index(split="train").tolist())
    assert len(training) == 98_411


def test_atom_references_hold_five_elements():
    references = qm9_atom_references()
    assert list(references) == ["H", "C", "N", "O", "F"]
    assert references["C"]["U0"] == -37.846772 and references["F"]["Cv"] == 2.981


def test_g_schnet_samples_are_ten_thousand_with_fluorine():
    samples = load_gschnet()
    assert len(samples) == 10_000
    assert (samples.atomic_numbers == 9).sum() == 346


def test_loading_for_training_needs_neither_pandas_nor_rdkit_nor_torch():
    code = (
        "import sys; from molkit.data.qm9 import load_qm9; load_qm9(split='train', limit=3);"
        "print([name for name in ('pandas', 'rdkit', 'torch', 'scipy', 'urllib.request') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
