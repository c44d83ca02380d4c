"""The recipe behind `molkit relax`: bad molecules are named, good ones finished; the level follows the structure."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from molkit.chem.files import read_xyz, write_xyz
from molkit.chem.rdkit_tools import embed_smiles
from molkit.cli import run
from molkit.cli.relax import relax
from molkit.data.qm9 import load_qm9
from molkit.edm.config import EdmConfig
from molkit.edm.features import channel_spreads
from molkit.edm.model import build, load, save
from molkit.edm.network import LEVEL_SCALE, PreconditionedNetwork
from molkit.edm.samplers import ANCESTRAL, SAMPLERS
from molkit.edm.schedule import log_snr_table
from molkit.errors import InvalidInput
from molkit.experiments.run import table_of
from molkit.experiments.store import Store
from molkit.geometry import aligned_rmsd
from molkit.molecule import Molecule
from molkit.relaxation import recipe
from molkit.relaxation.denoisers import ExactDenoiser, enter
from molkit.relaxation.recipe import _averaged, fitting_levels, pre_relax
from molkit.rng import generator_from
from molkit.studies.relaxation import versus_force_field
from molkit.studies.relaxation.versus_force_field import known_error
from molkit.training.weights import weight_files

WATER = Molecule([8, 1, 1], [[5.0, 0.0, 0.0], [5.96, 0.0, 0.0], [4.76, 0.93, 0.0]], name="water")
SULFIDE = Molecule([16, 1, 1], WATER.positions, name="sulfide")
CATION = Molecule([7, 1, 1, 1, 1], np.eye(5)[:, :3] * 1.2 + np.arange(5)[:, None] * 0.6, charge=1)
EDM = build(EdmConfig(width=16, num_layers=1), seed=1, name="toy")


def test_problems_are_by_molecule_and_the_good_ones_keep_their_place():
    overlapping = WATER.with_positions(np.zeros((3, 3)) + [[0], [0.1], [2.0]])
    found = pre_relax(EDM, [SULFIDE, WATER, CATION, overlapping], copies=2, generator=generator_from("r"))
    assert sorted(found.problems) == [0, 2, 3] and [one is None for one in found.molecules] == [True, False, True, True]
    assert "S" in found.problems[0] and "charge 1" in found.problems[2] and "overlap" in found.problems[3]
    np.testing.assert_allclose(found.molecules[1].positions.mean(0), WATER.positions.mean(0), atol=1e-6)


@pytest.mark.parametrize("options", [{"copies": 0}, {"sigma": 1e-4}])
def test_wrong_options_are_refused(options):
    with pytest.raises(InvalidInput):
        pre_relax(EDM, [WATER], **options, generator=generator_from("r"))


@pytest.mark.parametrize("width", [0.0145, 0.0425, 0.1061])
def test_the_fitting_level_is_the_distance_to_what_the_model_predicts(width):
    """A perfect model predicts the known geometry, so the level is that of the displacement."""
    config = EdmConfig()
    random = np.random.default_rng(0)
    known = Molecule(random.choice([1, 6, 8], size=20), 2.0 * random.normal(size=(20, 3))).centred()
    moved = random.normal(size=(20, 3))
    moved = known.with_positions(known.positions + width * moved / np.sqrt(np.square(moved).mean()))
    denoiser = ExactDenoiser.knowing(config, log_snr_table(config), [known])
    assert fitting_levels(denoiser, [moved]) == [width]


class PerfectInner(torch.nn.Module):
    """The inner network of a preconditioned model that knows one molecule, as it lies.

    F = (x - (s / q)^2 y~) q / (s sigma), y~ and x without their means.
    """

    def __init__(self, config: EdmConfig, known: Molecule) -> None:
        super().__init__()
        self.config = config
        _, clean = enter(config, [known], dtype=torch.float64)
        self.clean = torch.cat([clean.positions, clean.features], dim=-1)
        self.scales, self.place = channel_spreads(config), torch.nn.Parameter(torch.zeros(1))
        self.means = torch.tensor((0.0, 0.0, 0.0, *config.feature_means), dtype=torch.float64)

    def forward(self, features, positions, time, *rest):
        level = torch.exp(LEVEL_SCALE * time.double())
        spread = torch.sqrt(level.square() + self.scales.square())
        seen = torch.cat(
            [positions.double() / (self.scales / spread)[:, :3], features.double() * spread[:, 3:]], dim=-1
        )
        residual = (self.clean - self.means - (self.scales / spread).square() * seen) * spread / (self.scales * level)
        return residual[:, :3].to(positions.dtype), residual[:, 3:].to(features.dtype)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
@pytest.mark.parametrize("level", [0.0285, 0.1061, 0.3])
def test_a_preconditioned_model_that_knows_the_molecule_relaxes_to_it_from_every_level(level, sampler):
    """Rounding to single precision is all that is left; a sampled ending leaves the noise of the last step."""
    known = Molecule(np.full(8, 6), 2.0 * np.random.default_rng(3).normal(size=(8, 3))).centred()
    means = (0.1, 0.1, 0.02, 0.02, 0.0, 0.4)
    config = EdmConfig(parametrisation="preconditioned", feature_means=means, spreads=(1.4, 0.09, 0.28))
    edm = replace(EDM, config=config, network=PreconditionedNetwork(PerfectInner(config, known)))
    moved = known.with_positions(known.positions + 0.05 * np.random.default_rng(4).normal(size=(8, 3))).centred()
    options = {"sigma": level, "sampler": SAMPLERS[sampler], "generator": generator_from("p")}
    (found,) = pre_relax(edm, [moved], **options).molecules
    assert aligned_rmsd(found.positions, known.positions) < 1e-5
    (found,) = pre_relax(edm, [moved], **options, ending="sample").molecules
    assert 0.002 < aligned_rmsd(found.positions, known.positions) < 0.008


def test_averaging_chains_brings_a_sampled_ending_closer_to_the_mean():
    config = EdmConfig()
    known = Molecule(np.full(8, 6), 2.0 * np.random.default_rng(3).normal(size=(8, 3))).centred()
    denoiser = ExactDenoiser.knowing(config, log_snr_table(config), [known] * 16)
    one, many = (
        _averaged(denoiser, [known] * (16 // k), 0.0285, "sample", k, ANCESTRAL, generator_from("a"))[0]
        for k in (1, 16)
    )
    assert aligned_rmsd(many.positions, known.positions) < 0.5 * aligned_rmsd(one.positions, known.positions)


def test_the_command_writes_what_it_could_and_names_the_rest(tmp_path, capsys):
    folder = tmp_path / "toy"
    save(EDM, folder)
    write_xyz(tmp_path / "in.xyz", [WATER, SULFIDE])
    arguments = ["relax", str(tmp_path / "in.xyz"), "--with", str(folder), "--out", str(tmp_path / "out.xyz")]
    assert run([*arguments, "--sigma", "auto"]) == 3
    said = capsys.readouterr()
    assert "1 molecules relaxed, 1 left out" in said.out and "molecule 2" in said.err
    assert len(read_xyz(tmp_path / "out.xyz")) == 1
    assert run([*arguments, "--sigma", "much"]) == 2
    assert "angstrom or auto" in capsys.readouterr().err
    write_xyz(tmp_path / "in.xyz", [SULFIDE])
    (tmp_path / "out.xyz").unlink()
    assert run(arguments) == 2
    assert "molecule 1: " in capsys.readouterr().err and not (tmp_path / "out.xyz").exists()


def test_relaxations_are_kept_and_the_folder_knows_what_they_depend_on(tmp_path, monkeypatch, capsys):
    folder, out = tmp_path / "toy", tmp_path / "out.xyz"
    save(EDM, folder)
    given = [WATER.with_positions(WATER.positions * scale) for scale in (1.0, 1.01, 1.02)]
    write_xyz(tmp_path / "in.xyz", [*given, SULFIDE])
    monkeypatch.setattr(recipe, "PART", 2)
    bare = ["relax", str(tmp_path / "in.xyz"), "--with", str(folder), "--out", str(out)]
    assert run(bare) == 3
    without, arguments = out.read_bytes(), [*bare, "--keep", str(tmp_path / "keep")]
    assert run([*arguments, "--workers", "2"]) == 3 and out.read_bytes() == without
    assert len(list((tmp_path / "keep" / "results").iterdir())) == 2
    monkeypatch.setattr(recipe, "pre_relax", lambda edm, molecules, **_: molecules and pytest.fail("relaxed again"))
    capsys.readouterr()
    assert run(arguments) == 3 and out.read_bytes() == without
    assert "molecule 4" in capsys.readouterr().err
    for option, name in (("--seed", "seed"), ("--copies", "copies")):
        assert run([*arguments, option, "7"]) == 2
        assert f"made with another '{name}'" in capsys.readouterr().err
    save(build(EDM.config, seed=99), folder)
    assert run(arguments) == 2 and "made with another 'weights'" in capsys.readouterr().err


def test_the_command_says_what_was_tested_and_refuses_what_lies_outside(tmp_path, capsys):
    """By the published weights: an O-H bond stretched by a quarter is mended, one of 2.4 angstrom and fluorine not."""
    ethanol = embed_smiles("CCO")[0]
    bond = ethanol.positions[8] - ethanol.positions[2]
    stretched, torn = (ethanol.positions.copy() for _ in range(2))
    stretched[8] = ethanol.positions[2] + 1.25 * bond
    torn[8] = ethanol.positions[2] + 2.5 * bond
    given = [ethanol, ethanol.with_positions(stretched), ethanol.with_positions(torn), embed_smiles("CF")[0], WATER]
    write_xyz(tmp_path / "in.xyz", given)
    assert run(["relax", str(tmp_path / "in.xyz"), "--out", str(tmp_path / "out.xyz")]) == 3
    out, err = capsys.readouterr()
    plain, mended, _ = read_xyz(tmp_path / "out.xyz")
    lengths = [np.linalg.norm(one.positions[8] - one.positions[2]) for one in (plain, mended)]
    assert lengths == pytest.approx([0.96, 0.96], abs=0.02)
    known = known_error(recipe.WEIGHTS, recipe.SIGMA, "mean", recipe.SAMPLER.name)
    assert known.num_molecules >= 20 and str(known) in out
    assert f"half lay within {known.median:.1f}, nine in ten within {known.ninth:.1f} kcal/mol" in out
    assert "left out, molecule 3: atom 9 would move by" in err and "left out, molecule 4: atom 2 is F" in err
    assert "molecule 5: 3 atoms, a size that was not tested" in err


def test_the_command_and_the_function_relax_in_the_same_way_where_nothing_is_said():
    default = {option.name: option.default for option in relax.params}
    assert (default["weights"], float(default["sigma"])) == (recipe.WEIGHTS, recipe.SIGMA)
    assert (default["sampler"], default["ending"]) == (recipe.SAMPLER.name, "mean")


def test_the_default_way_left_least_on_validation_molecules():
    rows = table_of(Store("versus_force_field_recipe").read().entries.values())
    valid = rows[(rows["split"] == "valid") & rows["sigma"].notna()]
    best = versus_force_field.ways(pd.concat([valid, rows[rows["way"] == "mmff94"]])).iloc[0]
    assert (best["way"], best["sigma"], best["sampler"]) == (recipe.WEIGHTS, recipe.SIGMA, recipe.SAMPLER.name)


def test_what_was_tested_is_read_from_the_stored_runs():
    rows = table_of(Store("versus_force_field").read().entries.values())
    excesses = rows.query("start == 'edm 0.071 mean' and optimiser == 'internal' and failure == ''")["excess"]
    found = known_error("edm_qm9", 0.0707, "mean", "ancestral")
    assert (found.median, found.num_molecules) == (pytest.approx(np.median(excesses)), len(excesses))
    assert known_error("edm_qm9", 0.3, "mean", "ancestral") is None
    assert known_error("edm_drug", 0.0285, "mean", "ancestral") is None
    assert known_error("edm_qm9", 0.0707, "mean", "ddim") is None


def test_what_older_weights_of_the_name_were_tested_on_says_nothing(monkeypatch):
    now = versus_force_field.hash_files(weight_files("edm_qm9")[:1])
    monkeypatch.setattr(versus_force_field, "hash_files", lambda paths: dict.fromkeys(now, "other bytes"))
    assert known_error("edm_qm9", 0.0707, "mean", "ancestral") is None


def test_without_noise_on_the_way_a_relaxation_has_no_seed(tmp_path):
    save(EDM, tmp_path / "toy")
    write_xyz(tmp_path / "in.xyz", [WATER])
    bare = ["relax", str(tmp_path / "in.xyz"), "--with", str(tmp_path / "toy")]

    def made(sampler: str, seed: int) -> str:
        out = tmp_path / f"{sampler}{seed}.xyz"
        assert run([*bare, "--sampler", sampler, "--seed", str(seed), "--out", str(out)]) == 0
        return out.read_text()

    assert made("ddim", 1) == made("ddim", 2) and made("ancestral", 1) != made("ancestral", 2)


def test_the_packed_set_of_the_published_weights_holds_no_fluorine():
    """The reason why a model of QM9 refuses fluorine."""
    assert set(np.unique(load_qm9(split="train").atomic_numbers)) == {1, 6, 7, 8}
    assert load("edm_qm9", fast=False).config.sizes == EdmConfig().sizes
