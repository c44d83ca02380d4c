import numpy as np
import pytest
from ase import Atoms
from ase.db import connect
from message_toys import pack
from rdkit import Chem

from molkit.chem.bond_graph import graph_mol
from molkit.chem.conformer_rmsd import rmsd_matrix
from molkit.chem.rdkit_conformers import rdkit_conformers
from molkit.data.ensembles import ensemble_mol
from molkit.data.geom_ensembles import graph_ensembles, later_split, read_geom_ensembles, read_iso17, split_of_graph
from molkit.errors import DataNotFound, InvalidInput


def entry(smiles, energies, shuffle_seed=0):
    """Conformers of a SMILES in GEOM's layout, the atoms of each in an order of its own."""
    mol = graph_mol(smiles)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=float)
    random, conformers = np.random.default_rng(shuffle_seed), []
    for positions, energy in zip(rdkit_conformers(mol, len(energies), seed=1), energies, strict=True):
        order = random.permutation(len(numbers))
        xyz = np.column_stack([numbers, positions])[order].tolist()
        conformers.append({"totalenergy": energy, "relativeenergy": 0.0, "boltzmannweight": 0.5, "xyz": xyz})
    return {"conformers": conformers, "totalconfs": len(energies), "charge": 0}


@pytest.fixture
def release(tmp_path):
    broken = entry("CCO", [-3.0])
    broken["conformers"][0]["xyz"][0][1] += 9.0
    whole = entry("CCCCO", [-5.0, -5.002, -5.001])
    whole["conformers"] += [
        {**whole["conformers"][0], "xyz": [[*row[:3], 3.0 * row[3]] for row in whole["conformers"][0]["xyz"]]}
    ]
    path = tmp_path / "qm9_crude.msgpack"
    path.write_bytes(pack({"CCCCO": whole, "CCO": broken, "no molecule": entry("C=C", [-1.0])}))
    return path


def test_geom_comes_in_the_order_of_its_smiles_whatever_the_file_has(release):
    found = list(read_geom_ensembles(release))
    assert [type(one).__name__ for one in found] == ["Ensemble", "InvalidInput", "InvalidInput"]
    butanol = found[0]
    assert butanol.energies == pytest.approx([0.0, 0.6275, 1.2550], abs=1e-3)
    assert butanol.counts == {"published": 4, "other_molecule": 1}
    fresh = rdkit_conformers(graph_mol("CCCCO"), 3, seed=1)[[1, 2, 0]]
    rmsd = rmsd_matrix(ensemble_mol(butanol), butanol.positions, fresh)
    assert np.diag(rmsd).max() < 1e-6
    assert "none of 1 conformers" in str(found[1])
    assert len(list(read_geom_ensembles(release, limit=1))) == 1


def test_the_later_split_follows_the_published_rule():
    counts = {f"m{k}": k % 120 for k in range(4000)}
    found = later_split(counts, largest_test=100, num_graphs=1000)
    assert (len(found.train), len(found.valid), len(found.test)) == (800, 100, 200)
    parts = [set(found.train), set(found.valid), set(found.test)]
    assert not parts[0] & parts[1] and not (parts[0] | parts[1]) & parts[2]
    assert min(counts[one] for one in parts[0]) >= 5
    assert all(50 <= counts[one] <= 100 for one in parts[2])


@pytest.fixture
def iso17(tmp_path):
    """Two isomers in the layout of the release, four frames and one."""
    for name in ("reference.db", "test_other.db"):
        with connect(tmp_path / name) as database:
            for smiles, frames in (("CC(=O)CCC(C)=O", 4), ("OC1CCCCC1=O", 1)):
                mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
                numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
                for k, positions in enumerate(rdkit_conformers(mol, frames, seed=2)):
                    atoms = Atoms(numbers=numbers, positions=positions)
                    forces = {"atomic_forces": np.zeros((len(numbers), 3))}
                    database.write(atoms, key_value_pairs={"total_energy": -100.0 + 0.1 * k}, data=forces)
    return tmp_path


def test_iso17_is_read_by_its_own_split_and_by_graph(iso17):
    frames = list(read_iso17(iso17, "train"))
    assert len(frames) == 5 and frames[1].properties["energy"] == pytest.approx(-99.9)
    assert len(list(read_iso17(iso17, "test_other", limit=2))) == 2
    found, left_out = graph_ensembles(iter(frames))
    (one,) = found
    assert one.smiles == "CC(=O)CCC(C)=O" and one.positions.shape == (4, 18, 3)
    assert one.energies == pytest.approx([0.0, 2.306, 4.612, 6.918], abs=1e-2)
    assert left_out == {"not perceived": 0, "other order of atoms": 0, "rare graph": 1}
    shares = np.mean([split_of_graph(f"C{k}") == "test" for k in range(4000)])
    assert shares == pytest.approx(0.15, abs=0.02)


def test_wrong_releases_end_in_a_line(iso17, tmp_path):
    with pytest.raises(InvalidInput, match="unknown part"):
        read_iso17(iso17, "valid")
    with pytest.raises(DataNotFound, match="download"):
        read_iso17(iso17, "test_within")
    (iso17 / "test_within.db").write_bytes(b"no database")
    with pytest.raises(InvalidInput, match="expected an ASE database"):
        list(read_iso17(iso17, "test_within"))
    (iso17 / "test_within.db").write_bytes((iso17 / "reference.db").read_bytes()[:5000])
    with pytest.raises(InvalidInput, match="damaged"):
        list(read_iso17(iso17, "test_within"))
    with pytest.raises(DataNotFound):
        list(read_geom_ensembles(tmp_path / "none.msgpack"))
