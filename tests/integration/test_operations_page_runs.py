"""The commands of docs/operations.md as they stand there, typed at a gateway that runs, and one that is restored."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.test_cli_operates import DEV_TOML, GATEWAY_TOML, Dev
from tests.kit.pages import page
from tests.kit.running import SUPPORT_POLICY

PAGE = page("operations.md")


def block(heading: str) -> str:
    """The first block of commands under a heading of the page."""
    found = re.search(rf"^## {heading}$.*?^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def folder(tmp_path_factory):
    """Where a gateway is installed; its paths are short, since sockets lie there."""
    folder = tmp_path_factory.mktemp("op")
    shutil.copytree(SUPPORT_POLICY, folder / "policy")
    (folder / "dev.toml").write_text(DEV_TOML)
    (folder / "gateway.toml").write_text(GATEWAY_TOML)
    (folder / "bin").mkdir()
    program = folder / "bin" / "stepgrant"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from stepgrant_gateway.cli import main; main()" "$@"\n')
    program.chmod(0o755)
    return folder


def type_in(folder: Path, commands: str, **variables: str) -> str:
    """What a shell prints that is typed these commands; fails the test when one of them fails."""
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", **variables}
    shell = ["sh", "-e", "-c", commands]
    done = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def locks(dev: Dev) -> list[str]:
    return [lock["reason"] for lock in json.loads(dev.operate("locks", "--json").stdout)["locks"]]


@pytest.mark.slow
def test_a_backup_of_a_running_gateway_is_restored_without_what_came_after_it(folder):
    files = {name: str(folder / name) for name in ("ledger.db", "copy.db", "away")}
    names = dict(zip(("LEDGER", "COPY", "AWAY"), files.values(), strict=True))
    dev = Dev(folder)
    dev.operate("lock", "--tool", "orders.refund", "--reason", "before")
    assert "Copied and verified: " in type_in(folder, block("Backup"), **names)
    dev.operate("lock", "--tool", "mail.send", "--reason", "after")
    assert locks(dev) == ["before", "after"]
    dev.process.send_signal(signal.SIGHUP)
    assert dev.process.wait(20) == 0

    told = type_in(folder, block("Restore"), **names)
    assert "in 1 chains" in told
    assert "failed" not in told
    assert Path(names["AWAY"], "ledger.db").is_file()
    dev = Dev(folder)
    assert locks(dev) == ["before"]
    assert "in 2 chains" in type_in(folder, 'stepgrant audit verify "$LEDGER"', **names)
    assert dev.stop() == 0


@pytest.mark.slow
def test_recipients_keys_are_made_and_open_what_was_sealed_to_them(folder):
    commands = block("Keys")
    made, shown = commands.split("stepgrant audit", 1)
    type_in(folder, made)
    (folder / "gateway.toml").write_text(GATEWAY_TOML.replace("discard = true", 'recipients = ["auditor.pub.pem"]'))
    assert (folder / "auditor.pem").stat().st_mode & 0o077 == 0
    dev = Dev(folder)
    agent = "import asyncio, stepgrant\nasync def main():\n async with stepgrant.task('Refund', order_id='ord_00000042', customer='jo@x.org'): pass\nasyncio.run(main())"
    assert dev.run("agent/support", sys.executable, "-c", agent).returncode == 0
    assert dev.stop() == 0
    assert '"order_id": "ord_00000042"' in type_in(folder, "stepgrant audit" + shown, LEDGER=str(folder / "ledger.db"))
