"""Stepgrant: just-in-time grants for the steps of AI agents.

What stands here is loaded at first use (PEP 562): `import stepgrant` brings neither gRPC nor cryptography.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from stepgrant.answers import Grant
    from stepgrant.calls import GrpcCalls, HttpCalls, HttpRoute
    from stepgrant.client import Client, connect
    from stepgrant.defaults import assign, withdraw
    from stepgrant.errors import (
        ArgumentsInvalidError,
        Denial,
        DenialCode,
        Denied,
        GatewayUnavailableError,
        GrantRefusedError,
        IdentityUnavailableError,
        InvalidInputError,
        MisuseError,
        ProtocolError,
        Revoked,
        StepgrantError,
        TaskClosedError,
    )
    from stepgrant.guard import hand_off, task, tool
    from stepgrant.handed import Assignment, HandOff
    from stepgrant.outgoing.grpc import channel
    from stepgrant.outgoing.http import HttpAuth
    from stepgrant.step import Step
    from stepgrant.tasks import Task

__all__ = [
    "ArgumentsInvalidError",
    "Assignment",
    "Client",
    "Denial",
    "DenialCode",
    "Denied",
    "GatewayUnavailableError",
    "Grant",
    "GrantRefusedError",
    "GrpcCalls",
    "HandOff",
    "HttpAuth",
    "HttpCalls",
    "HttpRoute",
    "IdentityUnavailableError",
    "InvalidInputError",
    "MisuseError",
    "ProtocolError",
    "Revoked",
    "Step",
    "StepgrantError",
    "Task",
    "TaskClosedError",
    "assign",
    "channel",
    "connect",
    "hand_off",
    "task",
    "tool",
    "withdraw",
]

_ERRORS: Final = frozenset({"Denial", "DenialCode", "Denied", "Revoked"})
_HOMES: Final = {
    "Assignment": "handed",
    "Client": "client",
    "Grant": "answers",
    "GrpcCalls": "calls",
    "HandOff": "handed",
    "HttpAuth": "outgoing.http",
    "HttpCalls": "calls",
    "HttpRoute": "calls",
    "Step": "step",
    "Task": "tasks",
    "assign": "defaults",
    "channel": "outgoing.grpc",
    "connect": "client",
    "hand_off": "guard",
    "task": "guard",
    "tool": "guard",
    "withdraw": "defaults",
}
_MODULES: Final = frozenset({"blocking", "testing"})


def __getattr__(name: str) -> object:
    """Loads a public name when it is first asked for."""
    if name in _MODULES:
        return import_module(f"stepgrant.{name}")
    home = _HOMES.get(name)
    if home is None and (name in _ERRORS or name.endswith("Error")) and name in __all__:
        home = "errors"
    if home is None:
        raise AttributeError(f"module 'stepgrant' has no attribute {name!r}")
    return getattr(import_module(f"stepgrant.{home}"), name)


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted({*globals(), *__all__, *_MODULES})
