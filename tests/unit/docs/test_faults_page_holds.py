from __future__ import annotations

import re
from typing import NamedTuple

from tests.kit.pages import missing_patches, missing_tests, named_tests, page

PAGE = page("faults.md")
STATES = ("held", "part", "relied on", "not defended", "later", "not automated")
REASONED = re.compile(r"(part|relied on|not defended|not automated|later \([\w ,-]+\)): \S.*")
GROUPS = {"A": "ID", "B": "TK", "C": "PE", "D": "SM", "E": "TR", "F": "ST", "G": "CK", "H": "RV", "K": "DS"}

# The groups whose held rows have tests named after them. A group comes in when its last row is renamed.
FINISHED = ("A", "B", "D", "E", "F", "G", "H", "K")


class Row(NamedTuple):
    """One fault and what holds."""

    group: str
    id: str
    state: str
    where: str

    @property
    def held(self) -> bool:
        """True if nothing of the fault is left open."""
        return self.state.split(":")[0] == "held"


def rows(text: str) -> list[Row]:
    """The rows of each group's table."""
    found: list[Row] = []
    for section in re.split(r"^## (?=[A-Z]\. )", text, flags=re.MULTILINE)[1:]:
        for cells in re.findall(r"^\| ([A-Z]{2}-\d\d) \| (.*?) \| ?(.*)\|$", section, flags=re.MULTILINE):
            found.append(Row(section[0], cells[0], cells[1], cells[2].strip()))
    return found


ROWS = rows(PAGE)


def test_every_line_of_a_table_is_a_row_of_its_group_and_stands_once() -> None:
    lines = re.findall(r"^\| [A-Z]{2}-", PAGE, flags=re.MULTILINE)
    assert len(ROWS) == len(lines) > 60
    assert [row.id for row in ROWS if not row.id.startswith(GROUPS[row.group])] == []
    assert [row.id for row in ROWS] == sorted({row.id for row in ROWS}, key=lambda name: (_group(name), name))


def test_every_row_says_one_of_the_states_and_what_is_not_held_says_why() -> None:
    for state in STATES:
        assert f"| {state} |" in PAGE
    assert [row.id for row in ROWS if not row.held and not REASONED.fullmatch(row.state)] == []


def test_every_held_row_names_a_test() -> None:
    assert [row.id for row in ROWS if row.held and not named_tests(row.where)] == []


def test_every_test_and_patch_that_the_page_names_is_there() -> None:
    assert missing_tests(PAGE) == []
    assert missing_patches(PAGE) == []


def test_every_held_row_of_a_finished_group_names_a_test_that_bears_its_id() -> None:
    assert nameless(ROWS, FINISHED) == []


def test_every_held_row_of_identity_and_token_names_a_patch_that_switches_its_guard_off() -> None:
    assert [row.id for row in ROWS if row.group in "AB" and row.held and "`guards/" not in row.where] == []


def test_a_held_row_whose_tests_bear_other_names_is_found() -> None:
    own = Row("D", "SM-05", "held", "`unit/a.py::test_sm_05_the_same_again`")
    foreign = Row("D", "SM-07", "held: so far", "`unit/a.py::test_sm_05_the_same_again`")
    open_still = Row("D", "SM-08", "part: half", "`unit/a.py::test_something`")
    assert nameless([own, foreign, open_still], ("D",)) == ["SM-07"]


def nameless(found: list[Row], finished: tuple[str, ...]) -> list[str]:
    """The held rows of finished groups of which no test begins with their id."""
    return [
        row.id
        for row in found
        if row.group in finished and row.held
        if not any(name.startswith(f"test_{row.id.lower().replace('-', '_')}_") for _, name in named_tests(row.where))
    ]


def _group(name: str) -> str:
    return next(group for group, prefix in GROUPS.items() if name.startswith(prefix))
