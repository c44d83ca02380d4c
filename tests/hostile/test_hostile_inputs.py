"""Damaged and malicious files: readers answer with molecules or with one of our own errors, soon, in little memory.

By default some hundred mutated inputs a reader; `pytest -m slow tests/hostile` runs 20,000 of each.
"""

import io
import random
import resource
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rdkit import Chem, RDLogger
from safetensors.numpy import save as save_tensors

from molkit.chem.files import read_molecules, write_sdf, write_xyz
from molkit.chem.rdkit_tools import mol_from_smiles
from molkit.config import from_dict, read_yaml
from molkit.data.packed import read_packed, write_packed
from molkit.edm.config import EdmConfig
from molkit.edm.model import build, read_weights
from molkit.edm.training import read_recipe
from molkit.errors import InvalidInput, MolkitError
from molkit.molecule import Molecule, PackedMolecules

SECONDS = 2.0
GROWTH_MIB = 400
WORDS = [b"", b"\0", b"\xff\xfe", b"-1", b"0", b"999999999999", b"1e999", b"nan", b"inf", b"\n\n", b"\r", b"\t"]
WORDS += [b"$$$$\n", b"M  END\n", b"V3000", b"M  CHG  1   1  99", b"*", b"[", b"]", b"%99", b"&a [*a]"]
WORDS += [b"!!python/object:os.system", "١".encode(), "é".encode(), b"PK\x03\x04"]
WORDS += [b"{" * 50, b"[" * 500, b"(" * 300, b"C" * 300, b"1" * 400]


def mutated(content: bytes, draw: random.Random) -> bytes:
    """A few random edits: bytes changed, cut out, doubled, replaced by awkward words, the end cut off."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(data) + 1)
        kind = draw.randrange(6)
        if kind == 0 and data:
            data[at % len(data)] = draw.randrange(256)
        elif kind == 1:
            del data[at : at + draw.randint(1, 40)]
        elif kind == 2:
            data[at:at] = data[at : at + draw.randint(1, 80)]
        elif kind == 3:
            data[at:at] = draw.choice(WORDS)
        elif kind == 4:
            data[at : at + draw.randint(1, 12)] = draw.choice(WORDS)
        else:
            del data[at:]
    return bytes(data)


WATER = Molecule([8, 1, 1], [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]], name="water charge=0")
METHANOL = Molecule(
    [6, 8, 1, 1, 1, 1],
    [[0, 0, 0], [1.42, 0, 0], [-0.36, 1.03, 0], [-0.36, -0.51, 0.89], [-0.36, -0.51, -0.89], [1.75, 0.9, 0]],
)
SMILES = [b"CCO", b"C1=CC=CC=C1C(=O)[O-]", b"[13CH4]", b"C[C@@H](N)C(=O)O", b"F/C=C/F", b"c1ccc2ccccc2c1.[Na+]"]
TINY = EdmConfig(width=8, num_layers=1)


def _file_seeds(folder):
    write_xyz(folder / "seed.xyz", [WATER, METHANOL])
    write_sdf(folder / "seed.sdf", [WATER, METHANOL])
    write_packed(folder / "seed.npz", PackedMolecules.from_molecules([WATER, METHANOL]))
    recipe = (
        b"method: edm\ndata: {name: qm9, split: train}\nmodel: {width: 8, num_layers: 1}\ntraining: {batch_pairs: 10}\n"
    )
    tensors = {name: value.numpy() for name, value in build(TINY).network.state_dict().items()}
    return {
        "xyz": (folder / "seed.xyz").read_bytes(),
        "sdf": (folder / "seed.sdf").read_bytes(),
        "npz": (folder / "seed.npz").read_bytes(),
        "yaml": recipe,
        "safetensors": save_tensors(tensors),
    }


def _read_yaml(path):
    from_dict(EdmConfig, read_yaml(path).get("model", {}) or {}, source="fuzz")
    read_recipe(path)


READERS = {
    "xyz": read_molecules,
    "sdf": read_molecules,
    "npz": read_packed,
    "yaml": _read_yaml,
    "safetensors": lambda path: read_weights(path, build(TINY).network.state_dict()),
}


def attack(kind: str, count: int, folder, seed: int) -> float:
    """Give a reader `count` mutated files; returns the longest time one took. Other errors than ours pass through."""
    content, read, draw = _file_seeds(folder)[kind], READERS[kind], random.Random(f"{kind} {seed}")
    path, slowest = folder / f"hostile.{kind}", 0.0
    for number in range(count):
        path.write_bytes(mutated(content, draw))
        started = time.perf_counter()
        try:
            read(path)
        except MolkitError as error:
            assert "\n" not in str(error).strip(), f"{kind} {number}: more than one line: {error}"
        slowest = max(slowest, time.perf_counter() - started)
    return slowest


def attack_smiles(count: int, seed: int) -> float:
    """The same for SMILES."""
    draw, slowest = random.Random(seed), 0.0
    for _ in range(count):
        text = mutated(draw.choice(SMILES), draw).decode("utf-8", errors="replace")
        started = time.perf_counter()
        try:
            assert isinstance(mol_from_smiles(text), Chem.Mol)
        except MolkitError as error:
            assert "\n" not in str(error).strip()
        slowest = max(slowest, time.perf_counter() - started)
    return slowest


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.fixture(autouse=True)
def quiet_rdkit():
    RDLogger.DisableLog("rdApp.*")
    yield
    RDLogger.EnableLog("rdApp.*")


@pytest.mark.parametrize("kind", READERS)
def test_a_reader_survives_mutated_files(kind, tmp_path):
    before = peak_mib()
    assert attack(kind, 300, tmp_path, seed=0) < SECONDS
    assert peak_mib() - before < GROWTH_MIB


def test_a_coordinate_too_large_to_square_is_one_line(tmp_path):
    (tmp_path / "far.xyz").write_text("2\n\nH 0 0 0\nH 0 0 1e200\n")
    reading = read_molecules(tmp_path / "far.xyz")
    assert not reading.molecules and "1e+200 angstrom" in reading.problems[0].reason


def test_yaml_nested_too_deeply_is_one_line(tmp_path):
    (tmp_path / "deep.yaml").write_text("[" * 20_000)
    with pytest.raises(InvalidInput, match="not readable as YAML"):
        READERS["yaml"](tmp_path / "deep.yaml")


def test_smiles_survive_mutation():
    assert attack_smiles(500, seed=0) < SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_a_reader_survives_very_many_mutated_files(kind, tmp_path):
    before = peak_mib()
    assert attack(kind, 20_000, tmp_path, seed=1) < SECONDS
    assert peak_mib() - before < GROWTH_MIB


@pytest.mark.slow
def test_smiles_survive_very_many_mutations():
    assert attack_smiles(20_000, seed=1) < SECONDS


@settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=400), kind=st.sampled_from(sorted(READERS)))
def test_arbitrary_bytes_are_refused_or_read(content, kind, tmp_path):
    path = tmp_path / f"any.{kind}"
    path.write_bytes(content)
    try:
        READERS[kind](path)
    except MolkitError as error:
        assert str(path.name) in str(error) or "fuzz" in str(error)


def test_an_archive_that_unpacks_to_too_much_is_refused_unread(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, num_atoms=np.zeros(80_000_000, dtype=np.int64))
    before = peak_mib()
    with pytest.raises(MolkitError, match="would unpack to"):
        read_packed(path)
    assert peak_mib() - before < 100


def test_a_pickle_in_the_clothes_of_our_files_never_runs(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    buffer = io.BytesIO()
    np.savez(buffer, num_atoms=np.array([Evil()], dtype=object))
    contents = {"npz": buffer.getvalue(), "safetensors": pickle.dumps(Evil()), "yaml": pickle.dumps(Evil(), protocol=0)}
    contents |= {"xyz": pickle.dumps(Evil(), protocol=0), "sdf": pickle.dumps(Evil(), protocol=0)}
    for kind, content in contents.items():
        path = tmp_path / f"evil.{kind}"
        path.write_bytes(content)
        try:
            found = READERS[kind](path)
            assert not found.molecules, kind
        except MolkitError:
            pass
        assert not (tmp_path / "ran").exists(), kind
