"""spire-server and spire-agent on loopback, in a folder of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shlex
import socket
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.faults.waiting import eventually
from tests.integration.spire.processes import PATIENCE, Program
from tests.kit.pages import ROOT

BINARIES: Final = ROOT / ".cache" / "spire"
SERVER, AGENT = BINARIES / "spire-server", BINARIES / "spire-agent"

real_spire = (
    pytest.mark.spire,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (SERVER.is_file() and AGENT.is_file()),
        reason="SPIRE is not there: `make spire` builds it from source (Go 1.25 or newer, a quarter of an hour, once)",
    ),
)
"""Marks of every test here."""

PORTS: Final = (22_000, 32_000)
SERVER_CONF: Final = """
server {{
  trust_domain = "{trust_domain}"
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{folder}/s.sock"
  data_dir = "{folder}"
  log_level = "INFO"
  ca_ttl = "24h"
  agent_ttl = "1h"
  default_x509_svid_ttl = "{svid_ttl}s"
  default_jwt_svid_ttl = "{jwt_ttl}s"
  {federation}
  experimental {{ cache_reload_interval = "1s" }}
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3", connection_string = "{folder}/db" }} }}
  KeyManager "disk" {{ plugin_data {{ keys_path = "{folder}/keys.json" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"""
"""The times are those of a test: real ones are 1h for SVIDs and 5s for the cache."""

AGENT_CONF: Final = """
agent {{
  trust_domain = "{trust_domain}"
  server_address = "127.0.0.1"
  server_port = "{port}"
  socket_path = "{folder}/a.sock"
  data_dir = "{folder}"
  log_level = "INFO"
  log_file = "{folder}/spire.log"
  trust_bundle_path = "{folder}/bundle.pem"
  join_token = "{token}"
  experimental {{ sync_interval = "1s" }}
}}
plugins {{
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "disk" {{ plugin_data {{ directory = "{folder}" }} }}
  WorkloadAttestor "unix" {{ plugin_data {{ discover_workload_path = true }} }}
}}
"""


def free_port() -> int:
    """A port that nobody listens on; below what systems hand out by themselves, so that it stays so."""
    for port in random.sample(range(*PORTS), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError(f"none of 100 ports of {PORTS} is free")


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@dataclass(slots=True)
class SpireAgent:
    """One node: `node` is its SPIFFE ID, `socket` its Workload API, `log` what it has done."""

    node: str
    socket: str
    process: Program
    log: Path

    def fetched(self, spiffe_id: str) -> int:
        """How many X.509-SVIDs of that ID it has had signed so far."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return sum(f'spiffe_id="{spiffe_id}"' in line and "ing X509-SVID" in line for line in lines)

    async def has_fetched(self, spiffe_id: str, count: int = 1) -> None:
        """Returns once it has had so many of them signed: an entry of the server's is not yet one of the node's."""
        await eventually(lambda: self.fetched(spiffe_id) >= count, PATIENCE)


@dataclass(slots=True)
class SpireServer:
    """One trust domain. `svid_ttl`, `jwt_ttl`: seconds that SVIDs live; `federation`: that block of its configuration."""

    folder: Path
    trust_domain: str
    stack: AsyncExitStack
    svid_ttl: int
    federation: str = ""
    jwt_ttl: int = 20
    port: int = field(default_factory=free_port)
    process: Program | None = None

    async def begin(self) -> None:
        """Starts it, anew if it was ended; it answers afterwards."""
        self.folder.mkdir(exist_ok=True)
        values = {"folder": self.folder, "trust_domain": self.trust_domain, "port": self.port}
        ttls = {"svid_ttl": self.svid_ttl, "jwt_ttl": self.jwt_ttl}
        text = SERVER_CONF.format(**values, **ttls, federation=self.federation)
        (self.folder / "server.conf").write_text(text)
        command = [str(SERVER), "run", "-config", str(self.folder / "server.conf")]
        self.process = await Program.begin(self.stack, command, self.folder / "server.log")
        async with asyncio.timeout(PATIENCE):
            while (await self._run("healthcheck"))[0] != 0:  # noqa: ASYNC110 - it tells nobody that it is ready
                await asyncio.sleep(0.1)

    async def end(self) -> None:
        """Stops it, as if its machine were gone; what it knows stays on its disk."""
        assert self.process is not None
        await self.process.end()

    async def type_in(self, line: str, variables: Mapping[str, str]) -> str:
        """What a command line of docs/operations.md answers, with these variables of the shell."""
        words = [variables.get(word.removeprefix("$"), word) for word in shlex.split(line)]
        assert words[0] == "spire-server", line
        return await self.tell(*words[1:])

    async def tell(self, *words: str) -> str:
        """What the server answers to this subcommand; fails the test when it refuses."""
        status, output = await self._run(*words)
        assert status == 0, output
        return output

    async def ask(self, *words: str) -> Any:
        """As `tell`, as JSON."""
        return json.loads(await self.tell(*words, "-output", "json"))

    async def entry(self, spiffe_id: str) -> str:
        """The ID of the one entry for that SPIFFE ID."""
        found = await self.ask("entry", "show", "-spiffeID", spiffe_id)
        (entry,) = found["entries"]
        return str(entry["id"])

    async def node(self, name: str) -> SpireAgent:
        """A further agent, attested by a join token, as on a machine of its own."""
        folder = self.folder / name
        folder.mkdir()
        token = (await self.ask("token", "generate"))["value"]
        (folder / "bundle.pem").write_text(await self.tell("bundle", "show"))
        text = AGENT_CONF.format(folder=folder, trust_domain=self.trust_domain, port=self.port, token=token)
        (folder / "agent.conf").write_text(text)
        command = [str(AGENT), "run", "-config", str(folder / "agent.conf")]
        process = await Program.begin(self.stack, command, folder / "agent.log")
        await eventually((folder / "a.sock").exists, PATIENCE)
        return SpireAgent(
            f"spiffe://{self.trust_domain}/spire/agent/join_token/{token}",
            f"unix:{folder}/a.sock",
            process,
            folder / "spire.log",
        )

    async def _run(self, *words: str) -> tuple[int, str]:
        command: Sequence[str] = [str(SERVER), *words, "-socketPath", str(self.folder / "s.sock")]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
        return process.returncode or 0, output.decode()
