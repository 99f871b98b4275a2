"""Processes of a test: started, heard line by line, ended by their own handle."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

PATIENCE: Final = 60.0
"""Seconds that anything may take before it counts as never."""
STOPS_WITHIN: Final = 15.0
LINE: Final = 1 << 20


class Program:
    """One process. `said`: the JSON lines of its standard output so far; `log`: where its standard error goes."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self.log = log
        self.said: list[dict[str, Any]] = []
        self._heard = asyncio.Condition()
        self._over = False
        self._hearing = asyncio.create_task(self._hear())

    @classmethod
    async def begin(
        cls, stack: AsyncExitStack, command: Sequence[str], log: Path, variables: Mapping[str, str] | None = None
    ) -> Program:
        """Starts it; the stack ends it."""
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=errors, env={**os.environ, **(variables or {})}, limit=LINE
            )  # fmt: skip
        program = cls(process, log)
        stack.push_async_callback(program.end)
        return program

    async def until(self, condition: Callable[[list[dict[str, Any]]], Any], within: float = PATIENCE) -> Any:
        """What `condition` says of the lines, once that is true of them; fails when it never is."""
        try:
            async with asyncio.timeout(within), self._heard:
                await self._heard.wait_for(lambda: condition(self.said) or self._over)
        except TimeoutError:
            raise AssertionError(f"it did not come to it within {within:.0f} s:\n{self.tail()}") from None
        if not (came := condition(self.said)):
            raise AssertionError(f"it ended before:\n{self.tail()}")
        return came

    async def line(self, key: str) -> Any:
        """The value that it first says under that key."""
        return await self.until(lambda said: next((one[key] for one in said if key in one), None))

    async def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends this process, and no other; returns when it is gone."""
        if self._process.returncode is None:
            self._process.send_signal(how)
        try:
            async with asyncio.timeout(STOPS_WITHIN):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._hearing

    @contextlib.contextmanager
    def halted(self) -> Iterator[None]:
        """Inside, it does nothing at all, while its kernel keeps its connections: a machine that hangs."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    async def gone(self) -> None:
        """Returns when it has ended by itself."""
        async with asyncio.timeout(PATIENCE):
            await self._process.wait()

    def tail(self) -> str:
        """The last of what it said and logged."""
        return "\n".join([*map(str, self.said[-5:]), *self.logged()[-20:]])

    def logged(self) -> list[str]:
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()

    async def _hear(self) -> None:
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                # SPIRE's programs print a word or two besides.
                if line.startswith(b"{"):
                    await self._tell(json.loads(line))
        finally:
            self._over = True
            await self._tell()

    async def _tell(self, *said: dict[str, Any]) -> None:
        async with self._heard:
            self.said.extend(said)
            self._heard.notify_all()
