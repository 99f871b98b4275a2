"""Everything that runs: trust domain, gateway, two resources, two agents and a thief, each a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc
from processes import ANSWER_SECONDS, Child, ChildError

from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.probe import grpc_channel_credentials, probe_server
from stepgrant.spiffe.source import IdentitySnapshot
from stepgrant.spiffe.workload import WorkloadApiSource

HERE: Final = Path(__file__).parent
STEPGRANT: Final = str(Path(sys.executable).with_name("stepgrant"))
GATEWAY_ID: Final = "spiffe://dev.stepgrant.test/gateway"
ORDERS_ID: Final = "spiffe://dev.stepgrant.test/resource/orders"


class World:
    """The processes of the demo, their files in `directory`. Entered, all of them are ready."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sockets = directory / "s"
        self._stack = ExitStack()
        self._environment: dict[str, str] = {}
        self.policy = directory / "policy"
        self.ledger = directory / "ledger.db"
        self.processes: list[tuple[str, str, int, str]] = []

    def __enter__(self) -> Self:
        """Starts everything, in the order in which one needs the other."""
        shutil.copytree(HERE / "policy", self.policy)
        shutil.copy(HERE / "gateway.toml", self._directory)
        with self._stack:
            self._start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends every process that is left, the last one first."""
        self._stack.close()

    def operate(self, *arguments: str) -> Any:
        """What `stepgrant ...` answers the operator, as JSON."""
        return self._run([*self._as("operator/jo"), STEPGRANT, *arguments, "--json"])[0]

    def events(self, task: str) -> list[dict[str, Any]]:
        """What the ledger has of a task, while the gateway runs."""
        return self._run([STEPGRANT, "audit", "show", str(self.ledger), "--task", task, "--json"])

    def close_and_audit(self) -> Mapping[str, Any]:
        """Ends everything in order; what `stepgrant audit verify` says of the ledger then."""
        self._stack.close()
        audit: Mapping[str, Any] = self._run([STEPGRANT, "audit", "verify", str(self.ledger), "--json"])[0]
        return audit

    def _start(self) -> None:
        domain = ["dev", "--config", str(HERE / "dev.toml"), "--directory", str(self._sockets), "--json"]
        trust = self._child("trust domain", [STEPGRANT, *domain])
        sockets = trust.answer()["sockets"]
        self._introduce(trust, "dev.stepgrant.test", "SPIFFE Workload API, a socket for each identity")

        served = [*self._as("gateway"), STEPGRANT, "serve", "--config", "gateway.toml", "--json"]
        gateway = self._child("gateway", served)
        address = gateway.answer()["gateway"]
        self._environment |= {"STEPGRANT_GATEWAY": address, "STEPGRANT_GATEWAY_ID": GATEWAY_ID}
        self._introduce(gateway, "gateway", f"gRPC, mTLS, {address}")

        orders = self._program("orders", "resource/orders", "orders.py")
        mail = self._program("mail", "resource/mail", "mail.py")
        with closing(WorkloadApiSource(sockets["operator/jo"])) as source:
            operator = source.current()
        _healthy(address, GATEWAY_ID, operator)

        at, url = orders.answer()["listening"], mail.answer()["listening"]
        self._environment |= {"ORDERS_ADDRESS": at, "MAIL_URL": url}
        self.agent = self._program("agent", "agent/support", "agent.py")
        self.doomed = self._program("agent to kill", "agent/support", "agent.py")
        self.thief = self._program("thief", "agent/triage", "thief.py")
        _healthy(at, ORDERS_ID, operator)
        httpx.get(f"{url}/health", timeout=ANSWER_SECONDS).raise_for_status()
        self._introduce(orders, "resource/orders", f"gRPC, mTLS, {at}")
        self._introduce(mail, "resource/mail", f"HTTP, DPoP, {url.removeprefix('http://')}")
        for child, identity, what in (
            (self.agent, "agent/support", "the program of refund.py"),
            (self.doomed, "agent/support", "another instance of it"),
            (self.thief, "agent/triage", "its own valid SVID, and what it can steal"),
        ):
            child.answer()
            self._introduce(child, identity, what)

    def _as(self, identity: str) -> list[str]:
        """What to put before a command so that it runs as this identity of dev.toml."""
        return [STEPGRANT, "dev", "run", "--directory", str(self._sockets), identity, "--"]

    def _program(self, name: str, identity: str, file: str) -> Child:
        return self._child(name, [*self._as(identity), sys.executable, "-u", str(HERE / file)])

    def _child(self, name: str, command: list[str]) -> Child:
        log = self._directory / f"{name.replace(' ', '-')}.log"
        return self._stack.enter_context(Child(name, command, log, self._environment, self._directory))

    def _introduce(self, child: Child, identity: str, what: str) -> None:
        self.processes.append((child.name, identity, child.pid, what))

    def _run(self, command: list[str]) -> list[Any]:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, **self._environment}, timeout=60
        )
        if done.returncode != 0:
            raise ChildError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return [json.loads(line) for line in done.stdout.splitlines()]


def _healthy(address: str, expected: str, identity: IdentitySnapshot) -> None:
    """Returns when the server proves to be `expected` and its health service (grpc.health.v1) says SERVING."""
    host, _, port = address.rpartition(":")
    pinned = probe_server(host, int(port), parse_spiffe_id(expected), identity, datetime.now(UTC))
    credentials, options = grpc_channel_credentials(identity, pinned)
    with grpc.secure_channel(address, credentials, options) as channel:
        request = health_pb2.HealthCheckRequest()
        for answer in health_pb2_grpc.HealthStub(channel).Watch(request, timeout=ANSWER_SECONDS):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
