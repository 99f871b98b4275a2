from __future__ import annotations

import re
from pathlib import Path

import pytest

from stepgrant.errors import DenialCode, RefusalCode
from stepgrant.verify._status import ANSWERS
from stepgrant_gateway.rpc.quotas import PLACES, RATES, Errand
from stepgrant_gateway.rpc.status import RETRY_AFTER_KEY, STATUS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")


def rows(heading: str) -> dict[str, str]:
    """The rows of the table under a heading: first cell without its backticks, and the whole line."""
    _, found, after = PAGE.partition(f"### {heading}")
    assert found, f"docs/protocol.md has no heading {heading!r}"
    table = after.partition("\n##")[0]
    return {match[1]: match[0] for match in re.finditer(r"^\| `([a-z_]+)` \|.*$", table, re.MULTILINE)}


def test_every_denial_code_has_a_line_and_no_other() -> None:
    assert set(rows("Denials")) == {code.value for code in DenialCode}


def test_every_refusal_code_has_a_line_with_its_statuses_and_no_other() -> None:
    lines = rows("Refusals of a resource")
    assert set(lines) == {code.value for code in RefusalCode}
    for code, answer in ANSWERS.items():
        status, http = answer.value
        assert lines[code.value].startswith(f"| `{code.value}` | `{status}` | {http} |")


def test_every_error_code_has_a_line_with_its_status_and_no_other() -> None:
    lines = rows("gRPC statuses of the gateway")
    assert set(lines) == set(STATUS)
    for code, status in STATUS.items():
        assert lines[code].startswith(f"| `{code}` | `{status.name}` |")


@pytest.mark.parametrize("errand", Errand, ids=lambda errand: errand.name)
def test_every_bound_of_an_identity_has_a_row(errand: Errand) -> None:
    places = f"{PLACES[errand]:,} |" if errand in PLACES else "|"
    assert f"| {RATES[errand].per_second:,} | {RATES[errand].burst:,} | {places}" in PAGE
    assert f"`{RETRY_AFTER_KEY}`" in PAGE


def codes_in_source(*files: str) -> set[str]:
    """Codes that steps and tasks are ended with, as they stand in the sources."""
    texts = [(ROOT / "gateway/src/stepgrant_gateway" / file).read_text(encoding="utf-8") for file in files]
    named = re.compile(r'code="([a-z_]+)"|cause="([a-z_]+)"|\("([a-z]+_[a-z]+)", "')
    return {code for text in texts for match in named.finditer(text) for code in match.groups() if code}


@pytest.mark.parametrize("heading", ["Ends of steps", "Ends of tasks"])
def test_no_end_is_listed_that_the_gateway_does_not_know(heading: str) -> None:
    sources = [
        *(ROOT / "gateway/src/stepgrant_gateway").glob("app/*.py"),
        ROOT / "gateway/src/stepgrant_gateway/rpc/live.py",
    ]
    text = "".join(source.read_text(encoding="utf-8") for source in sources)
    assert [code for code in rows(heading) if f'"{code}"' not in text] == []


def test_every_code_that_ends_a_step_or_a_task_is_named() -> None:
    files = (
        "app/delivering.py",
        "app/granting.py",
        "app/leasing.py",
        "app/lifecycle.py",
        "app/operating.py",
        "app/revoking.py",
    )
    assert [code for code in codes_in_source(*files) if f"`{code}`" not in PAGE] == []


def test_every_code_of_a_redemption_is_named() -> None:
    text = (ROOT / "gateway/src/stepgrant_gateway/app/redeeming.py").read_text(encoding="utf-8")
    said = {code for match in re.finditer(r'Redeemed\(False, 0, "([a-z_]+)"', text) for code in match.groups()}
    said |= set(re.findall(r'code = "([a-z_]+)" if step.code == "([a-z_]+)" else "([a-z_]+)"', text)[0])
    assert said == set(rows("Redemptions"))
