"""Children of the run: started, spoken to by lines of JSON, ended by pid."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

ANSWER_SECONDS: Final = 30
"""Longer than anything takes here, the start of a child on a busy machine included."""
STOP_SECONDS: Final = 5
LAST_WORDS: Final = 1500
"""Characters of a log that are shown when its child is lost."""


class ChildError(RuntimeError):
    """A child died, or did not answer in time; its own last words are in its log."""


class Child:
    """One process with JSON lines on its standard input and output, and a log file for its standard error."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str], directory: Path
    ) -> None:
        self.name = name
        self._log = log
        self._heard = b""
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **environment},
                cwd=directory,
                bufsize=0,
                process_group=0,  # Ctrl-C is for the orchestrator, which ends its children in order.
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

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

    def kill(self) -> float:
        """End it as a crash would, in the middle of what it does; returns when, on the monotonic clock."""
        at = time.monotonic()
        self._process.kill()
        self._process.wait()
        return at

    def say(self, message: object) -> None:
        """Send one line.

        Raises:
            ChildError: nobody listens any more.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode("utf-8") + b"\n")
        except BrokenPipeError as error:
            raise self._lost() from error

    def ask(self, message: object) -> dict[str, Any]:
        """Send one line and return the answer; raises as `say` and `answer`."""
        self.say(message)
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next line that the child says.

        Raises:
            ChildError: none came.
        """
        assert self._process.stdout is not None
        deadline = time.monotonic() + ANSWER_SECONDS
        while b"\n" not in self._heard:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            if not more:
                raise self._lost()
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _lost(self) -> ChildError:
        tail = self._log.read_text(errors="replace")[-LAST_WORDS:]
        return ChildError(f"{self.name} (pid {self.pid}) does not answer; the end of {self._log.name}:\n{tail}")
