"""`stepgrant policy check`."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from stepgrant_gateway.cli.exits import Exit
from stepgrant_gateway.cli.program import program
from tests.kit.running import SUPPORT_POLICY


@pytest.fixture
def broken(tmp_path):
    directory = tmp_path / "policy"
    shutil.copytree(SUPPORT_POLICY, directory)
    (directory / "more.cedar").write_text("permit(principal, action, resource);\n")
    return directory


def test_a_good_directory_is_summed_up_in_a_line():
    result = CliRunner().invoke(program, ["policy", "check", str(SUPPORT_POLICY)])

    assert result.exit_code == Exit.OK
    assert "golden cases pass" in result.output
    assert "sha256:" in result.output


def test_a_refused_directory_names_file_and_line_of_each_finding(broken):
    result = CliRunner().invoke(program, ["policy", "check", str(broken)])

    assert result.exit_code == Exit.REFUSED
    assert f"{broken}/more.cedar:1:" in result.output


def test_findings_are_json_when_asked(broken):
    result = CliRunner().invoke(program, ["policy", "check", "--json", str(broken)])

    document = json.loads(result.output)
    assert not document["ok"]
    assert {finding["file"] for finding in document["findings"]} == {"more.cedar"}


def test_a_directory_that_is_not_there_is_wrong_usage():
    assert CliRunner().invoke(program, ["policy", "check", "nowhere"]).exit_code == Exit.USAGE
