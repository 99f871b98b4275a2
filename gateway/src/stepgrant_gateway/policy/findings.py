"""What is wrong with a policy directory, collected so that an operator sees all of it at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from stepgrant_gateway.core.errors import Finding, PolicyRefusedError

MAX_FINDINGS: Final = 200
"""Findings kept of one directory; more would not be read."""


def refused(file: str, line: int, message: str, *, nearest_name: str = "", policy_id: str = "") -> PolicyRefusedError:
    """The error of one finding."""
    return PolicyRefusedError((Finding(file, line, policy_id, message, nearest_name),))


def nearest(name: str, valid: Iterable[str]) -> str:
    """The valid name that looks most like `name`, or an empty text when none does."""
    close = difflib.get_close_matches(name[:256], list(valid), n=1, cutoff=0.5)
    return close[0] if close else ""


class Findings:
    """Collects findings: each `with findings.part():` may fail without hiding what the next part has to say."""

    def __init__(self) -> None:
        self._found: list[Finding] = []

    @contextmanager
    def part(self) -> Iterator[None]:
        """Takes the findings of a PolicyRefusedError raised in the block, and goes on after it."""
        try:
            yield
        except PolicyRefusedError as error:
            self._found.extend(error.findings)

    def refuse_if_any(self) -> None:
        """Raises PolicyRefusedError with everything collected so far, in order of file and line, if anything was."""
        if self._found:
            raise PolicyRefusedError(tuple(sorted(dict.fromkeys(self._found)))[:MAX_FINDINGS])
