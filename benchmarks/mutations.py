"""How many deliberate mistakes the tests notice: each is one edit in a copy of the tree, with the tests that ought to
fail; prints JSON with the share caught in every room. The mistakes are in `mutations.yaml`.

python -m benchmarks.mutations [WORDS ...]     only the mistakes whose file holds one of the words
"""

import ast
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_suffix(".yaml")
GOAL = 0.9  # share caught, in every room
LONGEST = 900  # seconds of the tests of one mistake
PASSED, FAILED = 0, 1  # pytest's exit codes


@dataclass(frozen=True)
class Mistake:
    """An edit of one file below molkit, and the test files, below tests, that are run with it; `what` in words."""

    file: str
    what: str
    before: str
    after: str
    tests: str

    @property
    def room(self) -> str:
        """Its folder; for pages the study too."""
        parts = self.file.split("/")
        return "/".join(parts[:2]) if parts[0] == "studies" else parts[0].removesuffix(".py")


def mistakes(path: Path = LIST) -> list[Mistake]:
    """All of them, in the order of the file: test files, then what is run with them."""
    together = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [Mistake(tests=tests, **one) for tests, several in together.items() for one in several]


def edited(mistake: Mistake, root: Path) -> str:
    """The file with the mistake. Raises LookupError where the text to replace does not occur exactly once."""
    text = (root / "molkit" / mistake.file).read_text(encoding="utf-8")
    if text.count(mistake.before) != 1 or mistake.before == mistake.after:
        times = text.count(mistake.before)
        raise LookupError(f"molkit/{mistake.file}: {mistake.before!r} occurs {times} times, expected once")
    changed = text.replace(mistake.before, mistake.after)
    ast.parse(changed)
    return changed


@contextmanager
def in_place(mistake: Mistake, root: Path) -> Iterator[None]:
    """The mistake in a tree, for a with block."""
    path = root / "molkit" / mistake.file
    before, changed = path.read_text(encoding="utf-8"), edited(mistake, root)
    try:
        path.write_text(changed, encoding="utf-8")
        yield
    finally:
        path.write_text(before, encoding="utf-8")


def libraries() -> list[str]:
    """Modules of other people that the package imports when it is read: they are read once, before any test."""
    nodes = [node for path in (ROOT / "molkit").rglob("*.py") for node in ast.parse(path.read_text("utf-8")).body]
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return sorted(name for name in found if name.partition(".")[0] != "molkit")


def run_tests(tests: str, root: Path) -> int:
    """pytest's exit code for test files (words, below tests) of a tree, in a process of its own; 99 for too long."""
    child = os.fork()
    if child == 0:
        _test_here(tests.split(), root)
    deadline = time.monotonic() + LONGEST
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return 99


def _test_here(tests: Sequence[str], root: Path) -> None:
    """Never returns: this process, which has read no module of molkit yet, ends with pytest's exit code."""
    code = 98
    try:
        os.chdir(root)
        sys.path[:] = [str(root), *(path for path in sys.path if path not in ("", str(ROOT)))]
        os.environ["PYTHONPATH"] = str(root)
        sys.dont_write_bytecode = True
        with open(root / "tests.log", "w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            pytest = importlib.import_module("pytest")
            named = [f"tests/{test}" for test in tests]
            code = int(pytest.main([*named, "-x", "-q", "--no-header", "-p", "no:cacheprovider", "--tb=line"]))
            assert all(str(root) in str(m.__file__) for n, m in sys.modules.items() if n == "molkit")
    finally:
        os._exit(code)


def check(chosen: Sequence[Mistake], root: Path) -> list[dict[str, object]]:
    """What became of each mistake; none is made where the tests fail without. Raises LookupError for a text gone."""
    for mistake in chosen:
        edited(mistake, root)
    found, good = [], {}
    for mistake in chosen:
        if mistake.tests not in good:
            good[mistake.tests] = run_tests(mistake.tests, root) == PASSED
        if not good[mistake.tests]:
            found.append({**asdict(mistake), "caught": False, "code": None})
            said = (root / "tests.log").read_text(encoding="utf-8", errors="replace").splitlines()[-4:]
            print(f"NOT MADE  {mistake.file}: {mistake.tests} fails already: {' | '.join(said)}", file=sys.stderr)
            continue
        with in_place(mistake, root):
            code = run_tests(mistake.tests, root)
        found.append({**asdict(mistake), "caught": code == FAILED or code == 2, "code": code})  # 2: cannot be imported
        print(f"{'caught' if found[-1]['caught'] else 'MISSED'}  {mistake.file}: {mistake.what}", file=sys.stderr)
    return found


def summary(found: Sequence[dict[str, object]]) -> dict[str, object]:
    """Shares caught, by room, and what was missed."""
    rooms: dict[str, list[bool]] = defaultdict(list)
    for one in found:
        rooms[Mistake(**{name: str(one[name]) for name in Mistake.__dataclass_fields__}).room].append(one["caught"])
    failing = sorted({str(one["tests"]) for one in found if one["code"] is None})
    missed = [f"{one['file']}: {one['what']}" for one in found if not one["caught"]]
    shares = {room: {"caught": sum(flags), "of": len(flags)} for room, flags in sorted(rooms.items())}
    below = [room for room, flags in rooms.items() if sum(flags) < GOAL * len(flags)]
    return {
        "caught": len(found) - len(missed),
        "of": len(found),
        "rooms": shares,
        "below": below,
        "missed": missed,
        "failing_already": failing,
    }


def main(words: Sequence[str]) -> None:
    """Copy the committed tree, make the mistakes there one by one, and print what the tests noticed."""
    chosen = [one for one in mistakes() if not words or any(word in one.file for word in words)]
    for name in libraries():
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="molkit-mutations-") as name:
        packed = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", name], input=packed, check=True)
        print(json.dumps(summary(check(chosen, Path(name).resolve())), indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
