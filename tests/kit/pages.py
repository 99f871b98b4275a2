"""What a page of docs/ names, and whether it is there: tests as `unit/file.py::test_name`, patches as `guards/name`."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`((?:unit|property|integration|contract|conformance|faults)/[\w/]+\.py)(?:::(\w+))?`")


def page(name: str) -> str:
    """The text of a page of docs/."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def named_tests(text: str) -> list[tuple[str, str]]:
    """Each test that a text names: its file under tests/, and its function or an empty text."""
    return sorted(set(NAMED.findall(text)))


def named_patches(text: str) -> list[str]:
    """Each guard patch that a text names."""
    return sorted(set(re.findall(r"`guards/([a-z0-9-]+)`", text)))


@cache
def functions(file: Path) -> frozenset[str]:
    """The functions of a test file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def missing_tests(text: str) -> list[str]:
    """The tests that a text names and that are not there."""
    return [f"{file}::{name}" for file, name in named_tests(text) if not _is_there(ROOT / "tests" / file, name)]


def missing_patches(text: str) -> list[str]:
    """The patches that a text names and that are not there."""
    return [name for name in named_patches(text) if not (ROOT / "tests" / "guards" / f"{name}.patch").is_file()]


def _is_there(file: Path, name: str) -> bool:
    return file.is_file() and (not name or name in functions(file))
