"""The command line as it is started: quickly, and with errors that are a line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from stepgrant_gateway.cli.exits import CODES, EPILOG, Exit, reporting
from stepgrant_gateway.cli.program import program

COMMANDS = [
    ["serve"],
    ["doctor"],
    ["dev"],
    ["dev", "run"],
    ["policy", "check"],
    ["policy", "reload"],
    ["lock"],
    ["unlock"],
    ["locks"],
    ["tasks"],
    ["audit", "verify"],
    ["audit", "show"],
]
HEAVY = ["grpc", "cedarpy", "cryptography", "spiffe", "sqlite3", "rich.table"]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_that_names_the_exit_codes(command):
    result = CliRunner().invoke(program, [*command, "--help"], env={"COLUMNS": "200"})

    assert result.exit_code == Exit.OK
    assert command[-1] in {"serve", "run"} or "Exit status" in result.output


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != ["dev", "run"]], ids=" ".join)
def test_every_command_prints_json_when_asked(command):
    assert "--json" in CliRunner().invoke(program, [*command, "--help"], env={"COLUMNS": "200"}).output


def test_starting_brings_nothing_heavy_with_it():
    code = f"import stepgrant_gateway.cli.program, sys; print([m for m in {HEAVY} if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_the_epilog_names_every_exit_code():
    for item in Exit:
        assert str(item.value) in EPILOG
    assert set(CODES.values()) <= set(Exit)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["serve", "--config", "nowhere.toml"], Exit.REFUSED, "nowhere.toml"),
        (["dev", "--config", "nowhere.toml"], Exit.REFUSED, "nowhere.toml"),
        (["dev", "run", "--directory", "nowhere", "agent/x", "--", "true"], Exit.NOT_FOUND, "stepgrant dev"),
        (["tasks"], Exit.USAGE, "STEPGRANT_GATEWAY is not set"),
        (["lock", "--reason", "x", "--tool", "a.b"], Exit.USAGE, "STEPGRANT_GATEWAY is not set"),
        (["policy", "reload"], Exit.USAGE, "STEPGRANT_GATEWAY is not set"),
        (["frobnicate"], Exit.USAGE, "frobnicate"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_an_error_is_one_line_with_its_exit_code(arguments, exit_code, said, monkeypatch):
    for name in ("STEPGRANT_GATEWAY", "STEPGRANT_GATEWAY_ID", "SPIFFE_ENDPOINT_SOCKET"):
        monkeypatch.delenv(name, raising=False)

    result = CliRunner().invoke(program, arguments)

    assert result.exit_code == exit_code
    assert said in result.output
    assert "Traceback" not in result.output


def test_with_json_an_error_is_json_as_well(tmp_path):
    result = CliRunner().invoke(program, ["serve", "--json", "--config", str(tmp_path / "no.toml")])

    assert json.loads(result.stderr)["error"] == "config_invalid"
    assert Path("no.toml").name in result.stderr


def test_a_file_that_is_no_text_is_refused_in_a_line(tmp_path):
    (tmp_path / "dev.toml").write_bytes(b"\xff")

    result = CliRunner().invoke(program, ["dev", "--config", str(tmp_path / "dev.toml")])

    assert (result.exit_code, "UTF-8" in result.output) == (Exit.REFUSED, True)


def test_an_interrupted_command_does_not_say_that_it_is_done():
    with pytest.raises(typer.Exit) as ended, reporting(as_json=False):
        raise KeyboardInterrupt

    assert ended.value.exit_code == Exit.FAILED
