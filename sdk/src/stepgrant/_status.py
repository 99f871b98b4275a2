"""gRPC status codes of the gateway as errors of this library: one table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final

import grpc

from stepgrant.errors import (
    GatewayUnavailableError,
    IdentityUnavailableError,
    MisuseError,
    ProtocolError,
    StepgrantError,
    TaskClosedError,
)

RETRY_AFTER_KEY: Final = "stepgrant-retry-after-ms"
"""Trailing metadata of a gateway that has too much to do."""
MAX_DETAILS: Final = 512
"""Characters of a peer's words that stand in one of our messages."""

_TABLE: Final[Mapping[grpc.StatusCode, tuple[type[StepgrantError], str]]] = {
    grpc.StatusCode.UNAUTHENTICATED: (
        IdentityUnavailableError,
        "the gateway did not accept this workload's identity; check its SVID and the gateway's trust domains",
    ),
    grpc.StatusCode.PERMISSION_DENIED: (
        IdentityUnavailableError,
        "the gateway does not serve this workload; check which SPIFFE IDs it may serve",
    ),
    grpc.StatusCode.INVALID_ARGUMENT: (
        ProtocolError,
        "the gateway refused a message; use the same release on both sides",
    ),
    grpc.StatusCode.UNIMPLEMENTED: (ProtocolError, "this is not a Stepgrant gateway; check STEPGRANT_GATEWAY"),
    grpc.StatusCode.ALREADY_EXISTS: (
        MisuseError,
        "the step id was declared before with another intent; declare a new step",
    ),
    grpc.StatusCode.FAILED_PRECONDITION: (TaskClosedError, "the task is over; open a new one"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (
        GatewayUnavailableError,
        "the gateway has more to do than it takes on; try again later",
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: (GatewayUnavailableError, "the gateway did not answer in time; try again"),
}


def error_of(code: grpc.StatusCode, details: str | None, trailing: Iterable[Any] = ()) -> StepgrantError:
    """The error that a status is; whatever the table does not name means that the gateway cannot be used now.

    `trailing`: the metadata that came with it, which may say when to ask again.
    """
    kind, text = _TABLE.get(code, (GatewayUnavailableError, "the gateway cannot be used now; check that it runs"))
    said = f": {details[:MAX_DETAILS]}" if details else ""
    what = f"{text} ({code.name}{said})"
    return GatewayUnavailableError(what, _retry_after(trailing)) if kind is GatewayUnavailableError else kind(what)


def _retry_after(trailing: Iterable[Any]) -> timedelta | None:
    for key, value in trailing:
        if key == RETRY_AFTER_KEY and isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value):
            return timedelta(milliseconds=int(value))
    return None
