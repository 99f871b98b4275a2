"""Shows that every guard has a test: switches each guard off by its patch, and demands that its test fails.

A patch under tests/guards/ begins with comment lines `# INV-nn: what the guard is` and one or more `# test: NODE`.
Usage: python tools/guards.py [NAME ...]        (names or parts of names of patches; none = all)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("sdk", "gateway", "tests", "examples", "proto", "tools", "pyproject.toml", "README.md", "docs")
WORKERS = 2
WITHIN = 300
"""Seconds for the tests of one guard: some ten times what the longest take."""
ALL_WITHIN = 900
"""Seconds for all of them together, with every guard on."""


@dataclass(frozen=True, slots=True)
class Guard:
    """One patch, what it switches off, and the tests that must notice."""

    patch: Path
    says: str
    tests: tuple[str, ...]


def read_guard(patch: Path) -> Guard:
    """The guard that a patch file describes; SystemExit when it does not say its test."""
    head = [line[1:].strip() for line in patch.read_text().splitlines() if line.startswith("#")]
    tests = tuple(line.removeprefix("test:").strip() for line in head if line.startswith("test:"))
    says = next((line for line in head if not line.startswith("test:")), "")
    if not tests or not says:
        sys.exit(f"{patch.name}: needs `# INV-nn: what` and `# test: node` before the diff")
    return Guard(patch, says, tests)


def copy_tree(to: Path) -> None:
    """A copy of the sources that patches may change."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", ".venv*"))
        elif source.exists():
            shutil.copy(source, to / name)


def run_tests(tree: Path, tests: tuple[str, ...], within: float) -> subprocess.CompletedProcess[str]:
    """Pytest on a tree, which comes before whatever is installed; raises TimeoutExpired after `within` seconds."""
    path = os.pathsep.join(str(tree / part) for part in ("sdk/src", "gateway/src"))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "STEPGRANT_GUARDS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header", *tests]
    return subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, timeout=within, check=False
    )


def check_guard(tree: Path, guard: Guard) -> str | None:
    """None if the test fails without the guard, else what is wrong."""
    apply = ["git", "apply", "--whitespace=nowarn", str(guard.patch)]
    applied = subprocess.run(apply, cwd=tree, capture_output=True, text=True, check=False)
    if applied.returncode:
        return f"the patch does not apply: {applied.stderr.strip()[:200]}"
    try:
        result = run_tests(tree, guard.tests, WITHIN)
    except subprocess.TimeoutExpired:
        return f"its test does not end within {WITHIN} s without the guard"
    finally:
        subprocess.run([*apply, "--reverse"], cwd=tree, check=True)
    # What a guard keeps off may kill the interpreter on its way out, after the test has failed.
    if result.returncode == 1 or (result.returncode < 0 and "\nFAILED " in result.stdout):
        return None
    if result.returncode == 0:
        return "its test passes without the guard"
    return f"pytest ended with {result.returncode}: {(result.stdout + result.stderr).strip()[-400:]}"


def main(wanted: list[str]) -> int:
    """Checks the guards; 0 if every one is caught."""
    patches = sorted((ROOT / "tests" / "guards").glob("*.patch"))
    guards = [read_guard(patch) for patch in patches if not wanted or any(name in patch.name for name in wanted)]
    if not guards:
        sys.stderr.write("no such guard\n")
        return 2
    failures = 0
    with tempfile.TemporaryDirectory(prefix="stepgrant-guards-") as scratch:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(WORKERS):
            tree = Path(scratch) / str(number)
            tree.mkdir()
            copy_tree(tree)
            subprocess.run(["git", "init", "-q"], cwd=tree, check=True)
            trees.put(tree)
        tree = trees.get()
        before = run_tests(tree, tuple(dict.fromkeys(test for guard in guards for test in guard.tests)), ALL_WITHIN)
        trees.put(tree)
        if before.returncode:
            sys.stderr.write(f"{before.stdout[-3000:]}\nthe named tests must pass with every guard on\n")
            return 1

        def check(guard: Guard) -> tuple[Guard, str | None]:
            mine = trees.get()
            try:
                return guard, check_guard(mine, guard)
            finally:
                trees.put(mine)

        with ThreadPoolExecutor(WORKERS) as pool:
            for guard, wrong in pool.map(check, guards):
                failures += wrong is not None
                print(f"{'MISSED' if wrong else 'caught'}  {guard.patch.stem:<44} {guard.says}", flush=True)
                if wrong:
                    print(f"        {wrong}", flush=True)
    print(f"{len(guards) - failures} of {len(guards)} guards are caught by their tests")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
