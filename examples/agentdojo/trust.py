"""The gateway and its embedded trust domain: the installed `stepgrant` program, as an operator starts it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from processes import Child
from table import HERE

STEPGRANT: Final = os.environ.get("STEPGRANT", str(HERE.parents[1] / ".venv" / "bin" / "stepgrant"))
_GATEWAY_TOML: Final = """\
[gateway]
issuer = "spiffe://dev.stepgrant.test/gateway"
listen = "127.0.0.1:0"
policy = {policy}

[identity]
source = "workload_api"

[ledger]
path = "ledger.db"

[inputs]
discard = true
"""


class Gateway:
    """`stepgrant dev` with a gateway, its files in `directory`."""

    def __init__(self, directory: Path, policy: Path = HERE / "policy") -> None:
        settings = directory / "gateway.toml"
        settings.write_text(_GATEWAY_TOML.format(policy=json.dumps(str(policy))), encoding="utf-8")
        self._ledger = directory / "ledger.db"
        self._sockets = directory / "s"
        options = ["--config", str(HERE / "dev.toml"), "--gateway", str(settings), "--directory", str(self._sockets)]
        self._child = Child("the gateway", [STEPGRANT, "dev", *options, "--json"], directory / "gateway.log")

    def __enter__(self) -> Self:
        """Returns once it serves."""
        try:
            self._child.answer()
        except BaseException:
            self._child.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop it, if `stop` has not."""
        self.stop()

    def stop(self) -> None:
        """End it in order."""
        self._child.__exit__(None, None, None)

    def identified(self, identity: str) -> list[str]:
        """What to put before a command so that it runs as this identity of dev.toml."""
        return [STEPGRANT, "dev", "run", "--directory", str(self._sockets), identity, "--"]

    def audit(self) -> Mapping[str, Any]:
        """What `stepgrant audit verify` says of the ledger; it fails if a chain does not verify."""
        done = subprocess.run(
            [STEPGRANT, "audit", "verify", str(self._ledger), "--json"], capture_output=True, text=True, check=True
        )
        found: Mapping[str, Any] = json.loads(done.stdout)
        return found
