"""Children of the run: started in order, spoken to by lines of JSON, ended by pid."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

ANSWER_SECONDS: Final = 60
"""Longer than a child takes to start with the benchmark's imports; nothing later comes near."""
STOP_SECONDS: Final = 5


class ChildError(RuntimeError):
    """A child died, or did not answer in time; its own last words are in its log."""


class Child:
    """One process with JSON lines on its standard input and output, and a log file for its standard error."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **(environment or {})},
                text=True,
            )

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End this process, and no other."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, message: object) -> Any:
        """Send one line and return the answer.

        Raises:
            ChildError: none came.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._lost() from error
        return self.answer()

    def answer(self) -> Any:
        """The next line that the child says.

        Raises:
            ChildError: none came.
        """
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_SECONDS)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            raise self._lost()
        return json.loads(line)

    def _lost(self) -> ChildError:
        tail = self._log.read_text(errors="replace")[-2000:]
        return ChildError(f"{self.name} does not answer; the end of its log:\n{tail}")
