"""Conformers for users: handedness, refusals in one line, the command, training and weights."""

import numpy as np
import pytest
import torch
import yaml
from cgcf_toys import generator
from rdkit import Chem

from molkit.cgcf.choice import flow_for
from molkit.cgcf.config import FlowConfig
from molkit.cgcf.conformers import Conformers, generate, sdf_lines
from molkit.cgcf.model import Cgcf, build_flow, load_flow, save_flow
from molkit.chem.bond_graph import graph_mol, stereo_agrees, stereo_rules
from molkit.chem.rdkit_tools import embed_smiles
from molkit.cli import run
from molkit.errors import InvalidInput
from molkit.training.weights import resolve


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    flow = build_flow(FlowConfig(elements=(1, 6, 7, 8, 9), width=8, sampling_steps=2)).eval()
    with torch.no_grad():
        flow.data_norm.mean.fill_(2.4)
        flow.data_norm.variance.fill_(0.5)
    path = tmp_path_factory.mktemp("flow") / "toy"
    save_flow(flow, path)
    return path


@pytest.fixture(scope="module")
def model(folder) -> Cgcf:
    return load_flow(folder)


@pytest.mark.parametrize("smiles", ["C[C@H](O)F", "C[C@@H](O)F", "C/C=C/C", "C/C=C\\C", "O[C@H](/C=C/F)[C@@H](N)C"])
def test_stereo_rules_agree_with_rdkits_embedding(smiles):
    """An independent program: ETKDG embeds what the SMILES says; the mirror image breaks every centre, no bond."""
    from rdkit.Chem import AllChem

    mol = graph_mol(smiles)
    rules = stereo_rules(mol)
    AllChem.EmbedMultipleConfs(mol, 3, randomSeed=1)
    positions = np.stack([conformer.GetPositions() for conformer in mol.GetConformers()])
    centres, bonds = stereo_agrees(rules, positions)
    assert len(rules) > 0 and centres.all() and bonds.all()
    centres, bonds = stereo_agrees(rules, -positions)
    assert not centres.any() and bonds.all()


def test_one_centre_is_always_right_after_reflection(model):
    plain = generate(model, "C[C@H](O)F", 12, generator=generator(), stereo="ignore")
    mirrored = generate(model, "C[C@H](O)F", 12, generator=generator(), stereo="mirror")
    assert 0 < plain.stereo_agrees.sum() < 12 and mirrored.stereo_agrees.all()
    assert mirrored.num_mirrored == 12 - plain.stereo_agrees.sum()


def test_redrawing_leaves_only_right_conformers(model):
    found = generate(model, "C[C@H](O)[C@@H](N)F", 6, generator=generator(), stereo="redraw")
    assert len(found) == 6 and found.stereo_agrees.all() and found.num_drawn >= 6


def test_atoms_may_come_in_another_order(model):
    mol = graph_mol("CCO")
    turned = Chem.RenumberAtoms(mol, list(range(mol.GetNumAtoms()))[::-1])
    found = generate(model, "CCO", 2, generator=generator(), mol=turned)
    assert [atom.GetSymbol() for atom in found.mol.GetAtoms()][-1] == "C" and found.positions.shape == (2, 9, 3)


@pytest.mark.parametrize(
    ("smiles", "message"),
    [
        ("CC(", "expected a SMILES string"),
        ("C.C", "2 fragments"),
        ("[He]", "single atom"),
        ("CBr", "trained without Br"),
        ("[CH3]", "unpaired electrons"),
        ("C*", "dummy atom"),
        ("C" * 140, "more than the 400"),
    ],
)
def test_what_has_no_conformers_is_refused_in_one_line(model, smiles, message):
    with pytest.raises(InvalidInput, match=message) as error:
        generate(model, smiles, 1, generator=generator())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("smiles", ["[H][H]", "C", "C[NH3+]", "C" * 64])
def test_small_rigid_charged_and_200_atom_molecules_have_some(model, smiles):
    found = generate(model, smiles, 1, generator=generator())
    assert np.isfinite(found.positions).all()


def test_the_command_finishes_the_good_ones_and_names_the_bad(folder, tmp_path, capfd):
    listed, out = tmp_path / "some.smi", tmp_path / "out.sdf"
    listed.write_text("CC(\nCO methanol\n")
    arguments = ["conformers", "C[C@H](O)F", str(listed), "-n", "3", "--weights", str(folder), "--out", str(out)]
    assert run([*arguments, "--rank", "xtb"]) == 0
    seen = capfd.readouterr()
    assert "molecule 2: expected a SMILES string" in seen.err and "6 conformers of 2 molecules, 1 failed" in seen.out
    mols = list(Chem.SDMolSupplier(str(out), removeHs=False))
    flat = [Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False) for mol in mols]
    assert flat == ["CC(O)F"] * 3 + ["CO"] * 3
    energies = [float(mol.GetProp("gfn2_xtb_ev")) for mol in mols[3:] if mol.HasProp("gfn2_xtb_ev")]
    assert energies == sorted(energies)


def test_records_carry_the_stereo_of_their_coordinates():
    mol = graph_mol("C[C@H](O)/C=C/F")
    positions = np.stack([one.positions for one in embed_smiles("C[C@H](O)/C=C/F", num_conformers=2)])
    ones = np.ones(len(positions), dtype=bool)
    text = "".join(sdf_lines(Conformers("C[C@H](O)/C=C/F", mol, positions, 0.0 * ones, ones, ones)))
    supplier = Chem.SDMolSupplier()
    supplier.SetData(text)
    assert [Chem.MolToSmiles(one) for one in supplier] == ["C[C@H](O)/C=C/F"] * len(positions)


def test_nothing_is_written_where_nothing_can_be_treated(folder, tmp_path, capfd):
    out = tmp_path / "out.sdf"
    assert run(["conformers", "CC(", "-n", "1", "--weights", str(folder), "--out", str(out)]) == 2
    assert not out.exists() and "none of the 1 molecules" in capfd.readouterr().err
    assert run(["conformers", "CC", "--weights", "edm_qm9", "--out", str(out)]) == 2
    assert "belong to method edm" in capfd.readouterr().err


def test_weights_follow_from_the_molecule_where_none_are_named(tmp_path, capfd):
    ibuprofen, out = "CC(C)Cc1ccc(cc1)C(C)C(=O)O", str(tmp_path / "out.sdf")
    assert [flow_for(text) for text in ("CCO", "CF", ibuprofen, "CC(")] == ["cgcf_qm9", *["cgcf_drug"] * 2, "cgcf_qm9"]
    assert run(["conformers", "CCO", "CF", "-n", "2", "--etm", "auto", "--out", out]) == 0
    seen = capfd.readouterr().out
    assert "by cgcf_qm9" in seen and "by cgcf_drug" in seen and "4 conformers of 2 molecules" in seen
    assert run(["conformers", "CC", "--weights", "elsewhere", "--etm", "auto", "--out", out]) == 2
    assert "no published energy belongs to elsewhere" in capfd.readouterr().err


def test_files_and_folders_are_looked_at_before_the_work(folder, tmp_path, capfd):
    listed, out = tmp_path / "some.smi", tmp_path / "out.sdf"
    listed.write_text("# two of them\nCO\n\nCC ethane\n")
    asked = ["-n", "1", "--weights", str(folder), "--stereo", "ignore", "--out"]
    assert run(["conformers", str(listed), *asked, str(out)]) == 0
    assert "2 conformers of 2 molecules, 0 failed" in capfd.readouterr().out
    listed.write_bytes(b"\xff\xfe\x00C")
    for smiles, target, message in (
        (str(listed), out, "cannot read"),
        (str(tmp_path / "none.txt"), out, "cannot read"),
        ("CC", tmp_path / "nowhere" / "out.sdf", "does not exist"),
        ("CC", tmp_path / "out.xyz", "must end in .sdf"),
    ):
        assert run(["conformers", smiles, *asked, str(target)]) == 2
        assert message in (seen := capfd.readouterr()).err and not seen.out


def test_a_recipe_trains_resumes_and_reloads(tmp_path):
    """Both objectives, a few steps; resumed weights equal those of a run in one go."""
    model = {"width": 8, "training_steps": 1}
    for objective in ("matching", "likelihood"):
        recipe = tmp_path / f"{objective}.yaml"
        training = {"batch_pairs": 2000, "total_steps": 4, "precision": "float32", "log_every": 1}
        values = {"method": "cgcf", "objective": objective, "data": {"limit": 20}, "model": model, "training": training}
        recipe.write_text(yaml.safe_dump(values))
        whole, parts = tmp_path / f"{objective}_whole", tmp_path / f"{objective}_parts"
        assert run(["train", str(recipe), "--out", str(whole), "--quiet"]) == 0
        assert run(["train", str(recipe), "--out", str(parts), "--quiet", "--total-steps", "2"]) == 0
        assert run(["train", str(recipe), "--out", str(parts), "--quiet", "--total-steps", "4", "--resume"]) == 0
        first, second = (load_flow(resolve(folder)).flow.state_dict() for folder in (whole, parts))
        assert first["data_norm.mean"] != 0.0
        assert set(first) == set(second)


def test_recipes_refuse_what_they_do_not_know(tmp_path, capfd):
    recipe = tmp_path / "r.yaml"
    for values, message in (
        ({"method": "cgcf", "objective": "guess"}, "objective must be likelihood or matching"),
        ({"method": "cgcf", "model": {"widht": 3}}, "unknown key 'widht'"),
        ({"method": "etm", "flow": 3}, "`flow` must name a flow"),
        ({"method": "etm", "flow": "x", "pool": 0}, "pool must be a number"),
    ):
        recipe.write_text(yaml.safe_dump(values))
        assert run(["train", str(recipe), "--out", str(tmp_path / "run")]) == 2
        assert message in capfd.readouterr().err


def test_a_run_is_published_with_its_card(tmp_path, monkeypatch):
    from molkit.cgcf.publish import publish

    recipe = tmp_path / "recipe.yaml"
    training = {"batch_pairs": 2000, "total_steps": 2, "precision": "float32", "log_every": 1}
    values = {"method": "cgcf", "objective": "matching", "data": {"limit": 10}, "model": {"width": 8}}
    recipe.write_text(yaml.safe_dump(values | {"training": training}))
    out = tmp_path / "run"
    assert run(["train", str(recipe), "--out", str(out), "--quiet"]) == 0
    folder = publish(out, "toy", root=tmp_path / "weights", remarks=["A toy."])
    text = (folder / "card.md").read_text()
    assert "Training by matching: 2 steps" in text and "- A toy." in text
    assert load_flow(folder).config.elements == load_flow(out).config.elements != ()
    with pytest.raises(InvalidInput, match="plain word"):
        publish(out, "a/b", root=tmp_path)


def test_the_tables_of_the_paper_are_entered():
    """Published numbers only where they were confirmed; the size of the flow is the one read off the checkpoints."""
    from molkit.claims.ledger import load_claims, select

    claims = load_claims()
    assert len(select(claims, "cgcf.qm9")) == len(select(claims, "cgcf.drugs")) == 36
    assert claims["cgcf.qm9_later_split.rdkit.cov_mean"].value == 83.26
    assert claims["cgcf.iso17.cgcf.single_mean"].value == 0.449
    assert all(claim.value is None for claim in select(claims, "cgcf.qm9") + select(claims, "cgcf.diversity"))
    count = sum(parameter.numel() for parameter in build_flow(FlowConfig()).parameters())
    assert count == claims["cgcf.model.num_parameters"].value
