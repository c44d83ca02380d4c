"""`make` on a machine that lacks what it needs: one line, exit code 2, nothing left behind."""

import os
import shutil
import subprocess

import pytest

from molkit.book.layout import REPOSITORY

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
PYTHONS = ("python3", "python3.11", "python3.12", "python3.13")


def test_make_without_a_usable_python_says_what_to_install(tmp_path):
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in PYTHONS:
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["make", "book"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "needs Python 3.11, 3.12 or 3.13" in done.stderr and "PYTHON=/path/to/python3" in done.stderr
    assert not (tmp_path / ".venv").exists() and not (tmp_path / "_build").exists()


def test_the_requirements_name_exact_versions_and_no_index():
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    assert lines[-1] == "-e ."
    assert all("==" in line and not line.startswith("-") for line in lines[:-1])
