"""One table from the gateway's status codes to errors that say what to do."""

from __future__ import annotations

from datetime import timedelta

import grpc
import pytest

from stepgrant._status import RETRY_AFTER_KEY, error_of
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


@pytest.mark.parametrize(
    ("said", "milliseconds"), [("250", 250), ("", None), ("-1", None), ("1.5", None), ("9" * 10, None)]
)
def test_ds_02_a_gateway_that_has_too_much_to_do_says_when_to_come_back(said, milliseconds):
    found = error_of(grpc.StatusCode.RESOURCE_EXHAUSTED, "", (("x", "1"), (RETRY_AFTER_KEY, said)))

    assert isinstance(found, GatewayUnavailableError)
    assert found.retry_after == (None if milliseconds is None else timedelta(milliseconds=milliseconds))
