"""What a caller shows to be known by: one thing on each listener, and nothing beside it (design 3)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, TypeAlias

from stepgrant.errors import InvalidInputError
from stepgrant_gateway.rpc.caller import Evidence

_BEARER: Final = re.compile(r"[Bb]earer ([A-Za-z0-9_.-]+)")
"""RFC 6750, section 2.1; of its characters those that a compact JWS has."""

Authorization: TypeAlias = tuple[str | bytes, ...]
"""All values of `authorization` in the metadata of a call. No other key of it names anybody."""


class Connection(Protocol):
    """What gRPC knows of the connection that a call came on."""

    def auth_context(self) -> Any:
        """Names of TLS properties, and their values."""


Presented: TypeAlias = Callable[[Connection, Authorization], Evidence]
"""What a call is known by; raises InvalidInputError for what this listener does not take."""


def by_certificate(connection: Connection, authorization: Authorization) -> Evidence:
    """What TLS knows of the client's certificate: for the listener that demands one.

    Raises:
        InvalidInputError: a second identity beside it.
    """
    if authorization:
        raise InvalidInputError("`authorization` metadata is not taken here: the client certificate says who calls")
    properties: Iterable[tuple[str, Iterable[bytes]]] = connection.auth_context().items()
    return dict(properties)


def by_bearer(connection: Connection, authorization: Authorization) -> Evidence:  # noqa: ARG001 - no certificate is asked for
    """The token of `authorization: Bearer TOKEN`: for the listener that asks for no certificate.

    Raises:
        InvalidInputError: there is none, more than one, or not one in this form.
    """
    if len(authorization) != 1:
        raise InvalidInputError(
            f"{len(authorization)} values of `authorization` came, and this listener wants exactly one, Bearer and a token: "
            "an agent of the SDK sends it with STEPGRANT_CREDENTIAL=jwt"
        )
    match = _BEARER.fullmatch(authorization[0]) if isinstance(authorization[0], str) else None
    if match is None:
        raise InvalidInputError("`authorization` is not the word Bearer, a space, and a compact JWT")
    return match[1]
