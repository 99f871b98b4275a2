"""The command line against a running gateway, as separate processes: `dev` with a gateway, operators, the ledger."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from stepgrant_gateway.cli.exits import Exit
from tests.kit.running import SUPPORT_POLICY

STEPGRANT = [sys.executable, "-c", "from stepgrant_gateway.cli import main; main()"]
DEV_TOML = """
[identities."gateway"]
dns = ["localhost"]
[identities."operator/jo"]
[identities."agent/support"]
"""
GATEWAY_TOML = """
[gateway]
issuer = "spiffe://dev.stepgrant.test/gateway"
listen = "127.0.0.1:0"
listen_bearer = "127.0.0.1:0"
policy = "policy"
operators = ["spiffe://dev.stepgrant.test/operator/jo"]
[identity]
source = "workload_api"
[ledger]
path = "ledger.db"
[inputs]
discard = true
"""


class Dev:
    """A running `stepgrant dev --gateway`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [*STEPGRANT, "dev", "--json", "-c", "dev.toml", "-g", "gateway.toml", "-d", "s"],
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=(directory / "log").open("wb"),
            text=True,
        )
        ready, _, _ = select.select([self.process.stdout], [], [], 30)
        line = self.process.stdout.readline() if ready else ""
        assert line, (directory / "log").read_text()
        self.state = json.loads(line)

    def run(self, identity: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*STEPGRANT, "dev", "run", "-d", str(self.directory / "s"), identity, "--", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def operate(self, *arguments: str, identity: str = "operator/jo") -> subprocess.CompletedProcess[str]:
        return self.run(identity, *STEPGRANT, *arguments)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@pytest.fixture(scope="module")
def dev():
    with tempfile.TemporaryDirectory(prefix="sg") as folder:
        directory = Path(folder)
        shutil.copytree(SUPPORT_POLICY, directory / "policy")
        (directory / "dev.toml").write_text(DEV_TOML)
        (directory / "gateway.toml").write_text(GATEWAY_TOML)
        dev = Dev(directory)
        yield dev
        dev.stop()


def test_dev_run_sets_the_three_variables(dev):
    shown = dev.run("agent/support", sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))")

    environment = json.loads(shown.stdout)
    assert environment["STEPGRANT_GATEWAY"] == dev.state["gateway"]
    assert environment["STEPGRANT_GATEWAY_ID"] == "spiffe://dev.stepgrant.test/gateway"
    assert environment["SPIFFE_ENDPOINT_SOCKET"] == dev.state["sockets"]["agent/support"]
    assert environment["PATH"] == os.environ["PATH"]


def test_dev_run_with_jwt_says_where_tokens_are_taken_and_that_one_is_shown(dev):
    opening = (
        "import asyncio, stepgrant\n"
        "async def main():\n"
        "    async with stepgrant.connect() as client, client.task('Refund', {'order_id': 'ord_00000042',"
        " 'customer': 'jo@x.org'}):\n"
        "        print(client)\n"
        "asyncio.run(main())\n"
    )
    done = dev.run("--jwt", "agent/support", sys.executable, "-c", opening)

    assert f"at {dev.state['gateway_bearer']}" in done.stdout, done.stderr


def test_dev_run_does_not_know_who_is_not_listed(dev):
    done = dev.run("agent/nobody", "true")

    assert done.returncode == Exit.NOT_FOUND
    assert "agent/support" in done.stderr


def test_tasks_are_listed_for_people_and_for_programs(dev):
    assert dev.operate("tasks").stdout.strip() == "No tasks are open."
    assert json.loads(dev.operate("tasks", "--json").stdout) == {"tasks": []}


def test_who_is_no_operator_is_told_so_by_exit_code_and_line(dev):
    done = dev.operate("tasks", identity="agent/support")

    assert done.returncode == Exit.NOT_ALLOWED
    assert "is not an operator" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_lock_is_set_listed_and_lifted(dev):
    locked = json.loads(dev.operate("lock", "--tool", "orders.*", "--reason", "an incident", "--json").stdout)
    listed = dev.operate("locks").stdout
    lifted = dev.operate("unlock", locked["lock"]["lock_id"], "--reason", "over")
    again = dev.operate("unlock", locked["lock"]["lock_id"], "--reason", "over")

    assert locked["durable"]
    assert "an incident" in listed
    assert max(len(line) for line in listed.splitlines()) <= 100
    assert "stay dead" in lifted.stdout
    assert again.returncode == Exit.NOT_FOUND


def test_a_reload_is_refused_whole_and_then_activated(dev):
    more = dev.directory / "policy" / "more.cedar"
    more.write_text("permit(principal, action, resource);\n")
    refused = dev.operate("policy", "reload")
    more.unlink()
    activated = dev.operate("policy", "reload", "--json")

    assert refused.returncode == Exit.REFUSED
    assert "more.cedar:1" in refused.stdout
    assert json.loads(activated.stdout)["activated"]


def test_the_ledger_can_be_read_while_the_gateway_runs_and_after_it_stopped(dev):
    ledger = str(dev.directory / "ledger.db")
    while_running = dev.operate("audit", "verify", ledger)
    status = dev.stop()
    verified = subprocess.run([*STEPGRANT, "audit", "verify", ledger], capture_output=True, text=True, check=False)
    shown = subprocess.run(
        [*STEPGRANT, "audit", "show", ledger, "--json", "--type", "gateway.stopped"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert while_running.returncode == Exit.OK, while_running.stderr
    assert status == Exit.OK
    assert "stopped in order" in verified.stdout
    assert [json.loads(line)["type"] for line in shown.stdout.splitlines()] == ["gateway.stopped"]
    assert not (dev.directory / "s" / "dev.json").exists()
