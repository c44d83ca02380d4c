"""`make` on a machine that lacks what it needs: one line, exit code 2, nothing left behind."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distributions, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from molkit.book.layout import REPOSITORY

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
PYTHONS = ("python3", "python3.11", "python3.12", "python3.13")


def test_make_without_a_usable_python_says_what_to_install(tmp_path):
    for name in ("Makefile", "requirements.txt", "requirements.lock", "pyproject.toml"):
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


def locked() -> dict[str, str]:
    """The versions that the lock file has for this Python; each package must have hashes, and nothing else is there."""
    entries = re.split(r"\n(?=\S)", (REPOSITORY / "requirements.lock").read_text().rstrip())
    entries = [entry for entry in entries if not entry.startswith("#")]
    for entry in entries:
        first, *hashes = entry.split(" \\\n    ")
        assert re.fullmatch(r"[\w.-]+==[\w.]+( ; [^/]+)?", first), first
        assert hashes and all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes), first
    wanted = [Requirement(entry.split(" \\\n")[0]) for entry in entries]
    return {one.name: str(one.specifier)[2:] for one in wanted if one.marker is None or one.marker.evaluate()}


def test_the_lock_holds_the_requirements_and_agrees_with_what_is_installed():
    versions = locked()
    asked = [line.split("==") for line in (REPOSITORY / "requirements.txt").read_text().splitlines() if "==" in line]
    assert {name: versions.get(name.lower()) for name, _ in asked if name != "torch"} == {
        name: version for name, version in asked if name != "torch"
    }
    found = {re.sub("[-_.]+", "-", one.name).lower(): one.version for one in distributions()}
    assert {name: found[name] for name in versions if name in found} == {
        name: version for name, version in versions.items() if name in found
    }
    complete = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert complete.returncode == 0, complete.stdout


def test_containers_ask_for_the_python_and_the_requirements_of_the_readme():
    (python,) = re.findall(r"needs Python (3\.\d+) or later", (REPOSITORY / "README.md").read_text())
    container = json.loads((REPOSITORY / ".devcontainer" / "devcontainer.json").read_text())
    assert container["image"].endswith(f":{python}") and "make .venv/.ready" in container["postCreateCommand"]
    assert (REPOSITORY / ".binder" / "runtime.txt").read_text() == f"python-{python}\n"
    assert (REPOSITORY / ".binder" / "requirements.txt").read_text().startswith("-r ../requirements.txt\n")


def imported(folder: Path) -> set[str]:
    """The packages from outside that the modules of a folder import, by the names under which they are installed."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            found |= {name.split(".")[0] for name in names}
    installed = packages_distributions()
    return {one.lower() for name in found - sys.stdlib_module_names for one in installed.get(name, [])}


def test_a_wheel_declares_every_package_that_it_imports():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    declared = {Requirement(line).name.lower() for line in [*project["dependencies"], *extras]}
    assert imported(REPOSITORY / "molkit") - declared == {"molkit"}
    always = {Requirement(line).name.lower() for line in project["dependencies"]}
    apart = imported(REPOSITORY / "molkit") - imported(REPOSITORY / "molkit" / "book")
    assert apart - always == {"dask-jobqueue", "distributed"}  # of farms on clusters, the extra `scale`
