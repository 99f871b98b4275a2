"""`stepgrant audit show`, line by line: what a person sees first of an event."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stepgrant_gateway.cli.program import program
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.storage.sqlite import SqliteLedger
from tests.kit.chains import chain_of, granted, started
from tests.kit.clock import START

FIRST, SECOND = "1a2b3c4d5e6f" + "0" * 52, "f" * 64


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    data = {"sequence": 7, "keys": 0, "added": [], "removed": [f"x509-svid:{FIRST}", f"jwt-svid:{SECOND}"]}
    bundle = Event(
        EventType.BUNDLE_CHANGED, START, {"trust_domain": "partner.test", **data, "between": [], "changes": 1}
    )
    said = {"issuer": "https://login.acme.test", "of": "subjects", "keys": 1, "added": [FIRST], "removed": []}
    keys = Event(EventType.ISSUER_KEYS_CHANGED, START, {**said, "between": [], "changes": 1})
    store = SqliteLedger(tmp_path / "ledger.db")
    store.append(chain_of(started(), granted(), bundle, keys), [])
    store.close()
    return tmp_path / "ledger.db"


def shown(*arguments: str) -> list[str]:
    result = CliRunner().invoke(program, ["audit", "show", *arguments])
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def test_a_change_of_keys_shows_whose_they_are_and_the_first_digits_of_each(ledger: Path) -> None:
    said = shown(str(ledger), "--type", "bundle.changed", "--type", "issuer.keys_changed")
    assert [line[13:] for line in said] == [
        "     3 bundle.changed       trust_domain=partner.test sequence=7 keys=0 removed=x509-svid:1a2b3c4d5e6f,jwt-svid:ffffffffffff",
        "     4 issuer.keys_changed  issuer=https://login.acme.test of=subjects keys=1 added=1a2b3c4d5e6f",
    ]


def test_json_has_the_digests_whole_and_every_type_of_event_has_its_line(ledger: Path) -> None:
    [changed] = map(json.loads, shown(str(ledger), "--json", "--type", "bundle.changed"))
    assert changed["data"]["removed"] == [f"x509-svid:{FIRST}", f"jwt-svid:{SECOND}"]
    assert [line.split()[2] for line in shown(str(ledger))] == [
        "gateway.started", "step.granted", "bundle.changed", "issuer.keys_changed",
    ]  # fmt: skip


def test_no_type_of_event_is_wider_than_its_column(ledger: Path) -> None:
    assert max(len(kind.value) for kind in EventType) == 20
    refused = CliRunner().invoke(program, ["audit", "show", str(ledger), "--type", "bundle.chnaged"])
    assert refused.exit_code != 0
    assert "bundle.changed" in refused.output
