from pathlib import Path

import numpy as np
import pytest

from molkit.data.drug_size import (
    SPLITS,
    elements_of,
    load_drug_size,
    load_entries,
    size_histogram,
    split_of_key,
)
from molkit.edm.training import load_molecules, read_recipe
from molkit.errors import InvalidInput
from molkit.studies.edm.drug_size import make_entries, write_entries


def test_the_set_holds_every_geometry_of_the_three_sources_once():
    whole = load_drug_size()
    assert len(whole) == 6_759 + 837 + 244 and len(np.unique(whole.entries)) == 1_789
    assert sum(len(load_drug_size(split=split)) for split in SPLITS) == len(whole)
    assert len(set(whole.molecules.names)) == len(whole)
    assert len(load_drug_size(split="test", sources=["tripeptides"])) == 24


def test_no_molecule_is_in_two_splits_across_the_sources_too():
    keys = {split: {entry.key for entry in load_entries() if entry.split == split} for split in SPLITS}
    assert not keys["train"] & keys["test"] and not keys["train"] & keys["valid"] and not keys["valid"] & keys["test"]
    sources = {}
    for entry in load_entries():
        sources.setdefault(entry.key, set()).add(entry.source)
    assert sum(len(found) > 1 for found in sources.values()) == 18  # so the rule across sources matters


def test_the_stored_keys_and_splits_are_those_of_the_rule(tmp_path):
    made = make_entries()
    assert made == load_entries()
    write_entries(tmp_path / "one.csv.gz", made)
    write_entries(tmp_path / "two.csv.gz", made)
    assert (tmp_path / "one.csv.gz").read_bytes() == (tmp_path / "two.csv.gz").read_bytes()


def test_the_split_of_a_key_is_its_hash():
    """SHA-256 of the empty text begins with e3b0c442, which is 3,820,012,610: the tenth hundredth, so valid."""
    assert int("e3b0c442", 16) == 3_820_012_610 and split_of_key("") == "valid"
    assert {split_of_key(str(k)) for k in range(100)} == set(SPLITS)


def test_one_per_molecule_takes_the_first_conformer_of_each():
    test = load_drug_size(split="test")
    single = test.one_per_molecule()
    assert len(single) == len(np.unique(test.entries)) == 179
    assert single.molecules.names[0] == test.molecules.names[0]
    assert (single.charges != 0).any() and set(single.sources) == {"conformers", "druglike", "tripeptides"}


def test_the_recipe_holds_the_elements_and_sizes_of_its_training_part():
    recipe = read_recipe(Path("edm_drug_cpu"))
    molecules = load_molecules(recipe.data)
    assert recipe.data.split == "train" and not recipe.model.atomic_number_channel
    assert recipe.model.sizes == size_histogram(molecules)
    assert recipe.model.elements == elements_of(molecules) == elements_of(load_drug_size().molecules)


def test_unknown_splits_sources_and_limits_are_refused():
    for arguments, message in (
        ({"split": "holdout"}, "unknown split 'holdout'"),
        ({"sources": ["zinc"]}, "unknown source 'zinc'"),
        ({"limit": 0}, "at least 1"),
    ):
        with pytest.raises(InvalidInput, match=message):
            load_drug_size(**arguments)
    assert len(load_drug_size(split="train", limit=7)) == 7
