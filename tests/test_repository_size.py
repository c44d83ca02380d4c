import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT_MIB, LIMIT_OF_A_FILE_MIB = 56, 16
NOT_OURS = {".git", ".venv", "_build", "_run", "runs", "__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis"}


def repository_files() -> list[Path]:
    """Tracked files; in a copy that is no git checkout, every file outside caches and build folders."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listing.returncode == 0 and listing.stdout:
        files = [ROOT / name.decode() for name in listing.stdout.split(b"\0") if name]
    else:
        files = [path for path in ROOT.rglob("*") if not NOT_OURS & set(path.relative_to(ROOT).parts)]
    return [path for path in files if path.is_file()]


def test_the_repository_fits_where_training_runs():
    sizes = {path: path.stat().st_size / 2**20 for path in repository_files()}
    largest = max(sizes, key=sizes.get)
    assert sum(sizes.values()) < LIMIT_MIB
    assert sizes[largest] < LIMIT_OF_A_FILE_MIB, largest
