from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
TESTS = sorted(
    set(re.findall(r"`((?:unit|property|integration|contract|conformance|faults)/[\w/]+\.py)(?:::(\w+))?`", PAGE))
)
PATCHES = sorted(set(re.findall(r"`guards/([a-z0-9-]+)`", PAGE)))
CHECKS = sorted(set(re.findall(r"`(stepgrant[\w.]*):([\w.]+)`", PAGE)))


@cache
def functions(file: Path) -> frozenset[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def is_there(file: str, name: str) -> bool:
    path = ROOT / "tests" / file
    return path.is_file() and (not name or name in functions(path))


def resolves(module: str, name: str) -> bool:
    found: object = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is not None


def test_every_test_that_the_page_names_is_there() -> None:
    assert len(TESTS) > 100
    assert [f"{file}::{name}" for file, name in TESTS if not is_there(file, name)] == []


def test_every_guard_patch_that_the_page_names_is_there() -> None:
    assert len(PATCHES) > 90
    assert [name for name in PATCHES if not (ROOT / "tests" / "guards" / f"{name}.patch").is_file()] == []


def test_every_check_that_the_page_names_is_there() -> None:
    assert len(CHECKS) > 30
    assert [f"{module}:{name}" for module, name in CHECKS if not resolves(module, name)] == []


def test_every_invariant_has_a_row_with_a_test_and_a_patch() -> None:
    for number in range(1, 15):
        row = next((line for line in PAGE.splitlines() if line.startswith(f"| INV-{number:02} ")), "")
        assert re.search(r"\.py::test_", row), f"INV-{number:02} names no test"
        assert "`guards/" in row, f"INV-{number:02} names no patch"
