"""The table from error codes to gRPC status codes."""

from __future__ import annotations

import grpc
import pytest

import stepgrant.errors as sdk_errors
import stepgrant_gateway.core.errors as gateway_errors
from stepgrant_gateway.app.feed import SubscriptionLostError
from stepgrant_gateway.app.granting import StepExistsError
from stepgrant_gateway.rpc.status import STATUS, CallLostError, status_of


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (sdk_errors.ProtocolError("x"), grpc.StatusCode.INVALID_ARGUMENT),
        (sdk_errors.InvalidSvidError("x"), grpc.StatusCode.UNAUTHENTICATED),
        (sdk_errors.IdentityUnavailableError("x"), grpc.StatusCode.UNAVAILABLE),
        (sdk_errors.TaskClosedError("x"), grpc.StatusCode.FAILED_PRECONDITION),
        (gateway_errors.UnrecordedError("x"), grpc.StatusCode.UNAVAILABLE),
        (gateway_errors.NotAllowedError("x"), grpc.StatusCode.PERMISSION_DENIED),
        (gateway_errors.NotFoundError("x"), grpc.StatusCode.NOT_FOUND),
        (SubscriptionLostError("x"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (CallLostError("draining", "x"), grpc.StatusCode.UNAVAILABLE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_error_has_its_status_and_says_what_was_wrong(error, status):
    assert status_of(error)[0] is status
    assert "x" in status_of(error)[1]


def test_a_step_declared_twice_with_other_arguments_already_exists():
    assert STATUS[StepExistsError.code] is grpc.StatusCode.ALREADY_EXISTS


@pytest.mark.parametrize("error", [RuntimeError("a secret"), gateway_errors.GatewayError("a secret")])
def test_what_has_no_row_is_internal_and_tells_nothing(error):
    status, text, code = status_of(error)

    assert (status, code) == (grpc.StatusCode.INTERNAL, "internal")
    assert "secret" not in text
