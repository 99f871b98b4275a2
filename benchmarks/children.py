"""Processes of a run: started, spoken to by lines of JSON, ended by their own id."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

START_SECONDS: Final = 60
"""Longer than a child takes to start, or to answer, on a busy machine."""
STOP_SECONDS: Final = 10
LINE_BYTES: Final = 16 * 1024 * 1024
"""What a child may say at once: the times of thousands of steps."""


class Child:
    """One process. `said` is what it said first."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self._name = name
        self._process = process
        self._log = log
        self.said: dict[str, Any] = {}

    @property
    def pid(self) -> int:
        """Its process id, that of what `stepgrant dev run` has become included."""
        return self._process.pid

    def tell(self, message: object) -> None:
        """One message; to a child that is gone, nothing."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def hear(self, within: float = START_SECONDS) -> dict[str, Any]:
        """Its next message.

        Raises:
            RuntimeError: it ended; with its last words.
            TimeoutError: it said nothing for so many seconds.
        """
        assert self._process.stdout is not None
        async with asyncio.timeout(within):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended:\n{self._log.read_text()[-2000:]}")
        heard: dict[str, Any] = json.loads(line)
        return heard

    async def ask(self, message: object, within: float = START_SECONDS) -> dict[str, Any]:
        """Its answer to a message; raises as `hear`."""
        self.tell(message)
        return await self.hear(within)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough."""
        if self._process.returncode is None:
            self._process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def child(
    name: str, directory: Path, command: Sequence[str], environment: Mapping[str, str], *, within: float = START_SECONDS
) -> AsyncIterator[Child]:
    """A process that has said its first line, `within` seconds; it ends with the block."""
    log = directory / f"{name}.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=-1,
            stdout=-1,
            stderr=errors,
            cwd=directory,
            env={**os.environ, **environment},
            limit=LINE_BYTES,
        )
    started = Child(name, process, log)
    try:
        started.said = await started.hear(within)
        yield started
    finally:
        await started.stop()
