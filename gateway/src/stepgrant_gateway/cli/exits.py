"""Exit codes, and how an error becomes one: one clear line, never a traceback."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from functools import wraps
from typing import Final, ParamSpec, TypeVar

import typer

from stepgrant.errors import StepgrantError
from stepgrant_gateway.core.errors import GatewayError

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Exit(IntEnum):
    """What the exit status of `stepgrant` says."""

    OK = 0
    """Done."""
    FAILED = 1
    """Something unexpected; the text says what."""
    USAGE = 2
    """The command line, or a variable that it needs, is not what it must be."""
    REFUSED = 3
    """A policy directory, gateway.toml or dev.toml is wrong; nothing was changed."""
    UNAVAILABLE = 4
    """The gateway, the Workload API or the ledger cannot be used now; trying again later can help."""
    NOT_ALLOWED = 5
    """You are who you say, and may not do this."""
    NOT_FOUND = 6
    """Nothing of that id is there."""
    BROKEN = 7
    """The ledger does not verify."""
    UNRECORDED = 8
    """In force, but not yet recorded durably."""


EPILOG: Final = (
    "Exit status: " + ", ".join(f"{item.value} {item.name.lower().replace('_', ' ')}" for item in Exit) + "."
)
CODES: Final[Mapping[str, Exit]] = {
    "config_invalid": Exit.REFUSED,
    "policy_refused": Exit.REFUSED,
    "invalid_input": Exit.REFUSED,
    "invalid_id": Exit.REFUSED,
    "protocol_error": Exit.REFUSED,
    "misuse": Exit.USAGE,
    "gateway_unavailable": Exit.UNAVAILABLE,
    "identity_unavailable": Exit.UNAVAILABLE,
    "ledger_unusable": Exit.UNAVAILABLE,
    "unrecorded": Exit.UNAVAILABLE,
    "not_allowed": Exit.NOT_ALLOWED,
    "not_found": Exit.NOT_FOUND,
    "ledger_broken": Exit.BROKEN,
}
"""By stable error code; what is not here is FAILED."""


def reported(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """The command, with its errors said in a line and turned into an exit status."""

    @wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with reporting(as_json=bool(kwargs.get("as_json"))):
            return command(*args, **kwargs)

    return run


@contextmanager
def reporting(*, as_json: bool) -> Iterator[None]:
    """Ends the program with the exit status of an error that is raised in the block."""
    try:
        yield
    except (StepgrantError, GatewayError) as error:
        say(error.code, str(error), as_json=as_json)
        raise typer.Exit(CODES.get(error.code, Exit.FAILED)) from error
    except KeyboardInterrupt as error:
        # Not OK: whoever interrupts `lock` must not read that it is locked. `serve` and `dev` end by their own handler.
        say("interrupted", "interrupted; what was asked may have been done all the same", as_json=as_json)
        raise typer.Exit(Exit.FAILED) from error
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        say("os_error", f"{place}{error.strerror or error}", as_json=as_json)
        raise typer.Exit(Exit.FAILED) from error


def say(code: str, text: str, *, as_json: bool) -> None:
    """An error, on standard error."""
    line = json.dumps({"error": code, "message": text}) if as_json else f"stepgrant: {text}"
    sys.stderr.write(line + "\n")
