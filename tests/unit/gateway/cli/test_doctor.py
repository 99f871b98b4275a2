"""`stepgrant doctor` as it is typed: lines for people, JSON for programs, and the status of the first failure."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from stepgrant_gateway.cli.exits import Exit
from stepgrant_gateway.cli.program import program


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch):
    for name in ("STEPGRANT_GATEWAY", "STEPGRANT_GATEWAY_ID", "SPIFFE_ENDPOINT_SOCKET"):
        monkeypatch.delenv(name, raising=False)


def test_each_finding_is_a_line_and_what_to_type_another():
    result = CliRunner().invoke(program, ["doctor"])

    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["failed", "->", "export", "stepgrant"] * 3
    assert lines[2] == "    export STEPGRANT_GATEWAY=stepgrant.acme.org:8443"
    assert lines[-1].startswith("0 of 3 are well, 3 failed")
    assert result.exit_code == Exit.USAGE


def test_with_json_it_is_one_document_with_every_check():
    document = json.loads(CliRunner().invoke(program, ["doctor", "--json"]).stdout)

    assert not document["ok"]
    assert [set(check) for check in document["checks"]] == [{"name", "state", "says", "todo", "command"}] * 3


def test_files_come_first_and_their_failure_is_the_status(tmp_path):
    result = CliRunner().invoke(program, ["doctor", "--config", str(tmp_path / "gateway.toml")])

    assert result.output.startswith("failed   gateway.toml")
    assert "warning  STEPGRANT_GATEWAY " in result.output
    assert result.exit_code == Exit.REFUSED
