import shutil

import pytest

from molkit.data import registry
from molkit.data.qm9 import load_qm9
from molkit.data.registry import data_path, listed_checksums, read_npz, sha256_of, verify_file
from molkit.errors import ChecksumMismatch, DataNotFound, InvalidInput


@pytest.fixture
def collection(tmp_path):
    """A folder of its own with the list and two small files."""
    for name in ("SHA256SUMS", "qm9_atomref.csv", "qm9_splits.npz"):
        shutil.copy(registry.DATA_ROOT / name, tmp_path / name)
    return tmp_path


def test_every_listed_file_is_there_with_the_published_bytes():
    for name, checksum in listed_checksums().items():
        assert verify_file(registry.DATA_ROOT / name) == checksum


def test_every_data_file_is_listed():
    files = {p.relative_to(registry.DATA_ROOT).as_posix() for p in registry.DATA_ROOT.rglob("*") if p.is_file()}
    own = {"SHA256SUMS", "README.md", ".gitignore", "qm9_full.npz", "qm9_full.npz.sha256"}
    assert {name for name in files - own if not name.startswith("original/")} == set(listed_checksums())


def test_one_changed_bit_is_reported_with_both_checksums(collection):
    path = collection / "qm9_splits.npz"
    expected = sha256_of(path)
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)

    with pytest.raises(ChecksumMismatch) as caught:
        read_npz("qm9_splits.npz", root=collection)
    for part in ("qm9_splits.npz", expected, sha256_of(path)):
        assert part in str(caught.value)


def test_a_file_that_changes_after_it_was_read_is_checked_again(collection):
    path = collection / "qm9_atomref.csv"
    data_path("qm9_atomref.csv", root=collection)
    path.write_text(path.read_text() + " ")
    with pytest.raises(ChecksumMismatch):
        data_path("qm9_atomref.csv", root=collection)


def test_a_missing_file_and_a_missing_list_say_how_to_get_them(collection, tmp_path):
    with pytest.raises(DataNotFound, match="rmd17.npz is missing: `git checkout"):
        read_npz("rmd17.npz", root=collection)
    with pytest.raises(DataNotFound, match="no data list at .*MOLKIT_DATA"):
        listed_checksums(collection / "elsewhere")


def test_a_file_nobody_published_is_not_read(collection):
    (collection / "mine.npz").write_bytes(b"x")
    with pytest.raises(DataNotFound, match="mine.npz has no published checksum"):
        read_npz("mine.npz", root=collection)


def test_a_damaged_list_is_named_with_its_line(collection):
    (collection / "SHA256SUMS").write_text("abc qm9.npz\n")
    with pytest.raises(InvalidInput, match="SHA256SUMS, line 1"):
        listed_checksums(collection)


def test_the_full_set_says_how_to_fetch_it_and_is_never_taken_by_itself(collection):
    with pytest.raises(DataNotFound, match="molkit data fetch qm9"):
        load_qm9(split="train", source="full", root=collection)
