"""One table from the gateway's status codes to errors that say what to do."""

from __future__ import annotations

import grpc
import pytest

from stepgrant._status import error_of
from stepgrant.errors import (
    GatewayUnavailableError,
    IdentityUnavailableError,
    MisuseError,
    ProtocolError,
    TaskClosedError,
)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (grpc.StatusCode.UNAVAILABLE, GatewayUnavailableError),
        (grpc.StatusCode.INTERNAL, GatewayUnavailableError),
        (grpc.StatusCode.OK, GatewayUnavailableError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, GatewayUnavailableError),
        (grpc.StatusCode.UNAUTHENTICATED, IdentityUnavailableError),
        (grpc.StatusCode.PERMISSION_DENIED, IdentityUnavailableError),
        (grpc.StatusCode.INVALID_ARGUMENT, ProtocolError),
        (grpc.StatusCode.ALREADY_EXISTS, MisuseError),
        (grpc.StatusCode.FAILED_PRECONDITION, TaskClosedError),
    ],
)
def test_each_status_is_an_error_that_names_it(status, error):
    found = error_of(status, "what the peer said")
    assert type(found) is error
    assert status.name in str(found)
    assert "what the peer said" in str(found)


def test_a_peers_words_are_cut():
    assert len(str(error_of(grpc.StatusCode.INTERNAL, "x" * 10_000))) < 700
