from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from stepgrant_gateway.cli.installation import BESIDE
from stepgrant_gateway.cli.program import program
from stepgrant_gateway.config import SECTIONS
from stepgrant_gateway.core.settings import Section
from stepgrant_gateway.storage.files import OWNER_ONLY
from stepgrant_gateway.web.metrics import COUNTERS, TIMINGS, Level, Metrics
from tests.integration.spire.site import COMMANDS, ENTRIES, GATEWAY, OPERATOR, ORDERS, PROXY, SUPPORT
from tests.kit.pages import ROOT, page

PAGE = page("operations.md")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
SOURCES = [
    path.read_text(encoding="utf-8") for src in ("gateway", "sdk") for path in (ROOT / src / "src").rglob("*.py")
]


def typed() -> Iterator[list[str]]:
    """Each `stepgrant ...` of the page: of its blocks, and of its text where it stands with arguments."""
    lines = [line for block in BLOCKS for line in block.splitlines()]
    lines += re.findall(r"`(stepgrant [^`]+)`", PAGE)
    for line in lines:
        found = re.search(r"(?:^|/)stepgrant ([a-z].*)", line)
        if found:
            yield found[1].split("#")[0].replace('"', "").split()


def unknown(words: list[str], command: Any) -> list[str]:
    """What of a command line the program does not know."""
    while commands := getattr(command, "commands", {}):
        name, words = words[0], words[1:]
        if name not in commands:
            return [name]
        command = commands[name]
        if not words:
            return []
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return [word for word in words if word.startswith("-") and word not in options]


def test_every_command_line_of_the_page_is_one_that_the_program_takes() -> None:
    root = typer.main.get_group(program)
    lines = list(typed())
    assert len(lines) > 25
    assert {" ".join(words): unknown(words, root) for words in lines if unknown(words, root)} == {}


def test_a_command_line_that_the_program_does_not_take_is_found() -> None:
    root = typer.main.get_group(program)
    assert unknown(["audit", "verity", "x"], root) == ["verity"]
    assert unknown(["doctor", "--confg", "x"], root) == ["--confg"]


def test_every_setting_that_the_page_names_is_one() -> None:
    named = set(re.findall(rf"`((?:{'|'.join(SECTIONS)})\.[a-z_]+)`", PAGE)) - {
        "gateway.toml",
        "gateway.stopped",
        "ledger.db",
    }
    known = {f"{section}.{name}" for section, kind in SECTIONS.items() for name in settings(kind)}
    assert len(named) >= 7
    assert named - known == set()


def settings(kind: type[Section]) -> set[str]:
    return set(kind.__dataclass_fields__)


def test_every_file_beside_a_ledger_has_a_row_with_its_mode() -> None:
    for ending in BESIDE:
        name = "-before`" if ending.endswith("-before") else f"`ledger.db{ending}`"
        row = next((line for line in PAGE.splitlines() if line.startswith("| `ledger.db") and name in line), "")
        assert f"{OWNER_ONLY:04o}" in row, ending


def test_every_party_has_its_entry_in_spire_and_servers_have_a_dns_name() -> None:
    """They are typed in as they stand by tests/integration/spire, and it uses every other command of SPIRE on the page."""
    assert set(ENTRIES) == {GATEWAY, ORDERS, SUPPORT, OPERATOR, PROXY}
    assert {party for party, line in ENTRIES.items() if "-dns " in line} == {GATEWAY, ORDERS, PROXY}
    tests = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "integration" / "spire").glob("*.py")
    )
    others = {re.split(r" -", line)[0].removeprefix("spire-server ") for line in COMMANDS} - {"entry create"}
    assert {command for command in others if not re.search(rf'(?:type_in|written)\("{command}"', tests)} == set()


def alarms() -> list[list[str]]:
    rows = PAGE[PAGE.index("## Alarms") :].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if row.startswith("| ")][1:]


def metrics() -> set[str]:
    """Every name on the page that Prometheus scrapes, and those that first come with their first event."""
    metrics = Metrics()
    metrics.show(dict.fromkeys(Level, 0.0), "sha256:0", {"ledger": False})
    scraped = set(re.findall(r"^# TYPE stepgrant_(\w+)", metrics.page().decode(), flags=re.MULTILINE))
    names = {name.removeprefix("stepgrant_") for name, *_ in (*COUNTERS.values(), *TIMINGS.values())}
    return scraped | {f"{name}_total" for name in names} | names


def test_every_alarm_has_a_cause_to_hear_of_it_a_meaning_and_something_to_do() -> None:
    assert len(alarms()) > 15
    for name, metric, event, means, do in alarms():
        assert name
        assert metric or event
        assert means
        assert do


def test_every_metric_of_an_alarm_is_scraped() -> None:
    named = {name for row in alarms() for name in re.findall(r"`([a-z_]+)[`{]", row[1])}
    assert len(named) > 10
    assert named - metrics() == set()


def test_every_log_event_of_an_alarm_is_logged_and_no_error_of_the_gateway_is_left_out() -> None:
    named = {name for row in alarms() for name in re.findall(r"`([a-z_]+)`", row[2])}
    logged = {name for source in SOURCES for name in re.findall(r'"event": "([a-z_]+)"', source)}
    checks = {"ledger", "clock", "identity", "signing_key"}
    assert all(f'"{check}":' in "".join(SOURCES) for check in checks)
    assert named - logged - {f"{check}_failing" for check in checks} == set()
    everyday = {
        "started",
        "draining",
        "lock_set",
        "lock_lifted",
        "policy_activated",
        "svid_rotated",
        "decided",
        "disk_enough",
        "bundle_updated",
        "bundle_endpoint_recovered",
        "issuer_keys",
        "logged_out",
        "subjects_lost",
    }
    assert logged - named - everyday == set()


def test_every_metric_and_every_event_of_the_log_stands_on_the_page() -> None:
    metrics = {level.name.lower() for level in Level}
    metrics |= {name.removeprefix("stepgrant_") + "_total" for name, _, _ in COUNTERS.values()}
    metrics |= {name.removeprefix("stepgrant_") for name, _ in TIMINGS.values()}
    events = {event for source in SOURCES for event in re.findall(r'"event": "([a-z_]+)"', source)}
    assert len(events) > 15
    assert sorted(name for name in metrics | events if not re.search(rf"`{name}\b", PAGE)) == []
