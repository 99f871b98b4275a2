from __future__ import annotations

import importlib
import re

from tests.kit.pages import missing_patches, missing_tests, named_patches, named_tests, page

PAGE = page("threat-model.md")
CHECKS = sorted(set(re.findall(r"`(stepgrant[\w.]*):([\w.]+)`", PAGE)))


def resolves(module: str, name: str) -> bool:
    found: object = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is not None


def test_every_test_that_the_page_names_is_there() -> None:
    assert len(named_tests(PAGE)) > 80
    assert missing_tests(PAGE) == []


def test_every_guard_patch_that_the_page_names_is_there() -> None:
    assert len(named_patches(PAGE)) > 90
    assert missing_patches(PAGE) == []


def test_every_check_that_the_page_names_is_there() -> None:
    assert len(CHECKS) > 30
    assert [f"{module}:{name}" for module, name in CHECKS if not resolves(module, name)] == []


def test_every_invariant_has_a_row_with_a_test_and_a_patch() -> None:
    for number in range(1, 15):
        row = next((line for line in PAGE.splitlines() if line.startswith(f"| INV-{number:02} ")), "")
        assert re.search(r"\.py::test_", row), f"INV-{number:02} names no test"
        assert "`guards/" in row, f"INV-{number:02} names no patch"
