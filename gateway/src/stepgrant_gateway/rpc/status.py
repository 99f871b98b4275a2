"""The one table from error codes to gRPC status codes, and how a call ends with one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar, Final, NoReturn

import grpc

from stepgrant.errors import ProtocolError, StepgrantError
from stepgrant_gateway.core.errors import GatewayError

ERROR_CODE_KEY: Final = "stepgrant-error"
"""Trailing metadata key that carries the stable error code."""
RETRY_AFTER_KEY: Final = "stepgrant-retry-after-ms"
"""Trailing metadata key that says, beside `overloaded`, in how many milliseconds to ask again."""

STATUS: Final[Mapping[str, grpc.StatusCode]] = {
    "protocol_error": grpc.StatusCode.INVALID_ARGUMENT,
    "invalid_input": grpc.StatusCode.INVALID_ARGUMENT,
    "invalid_id": grpc.StatusCode.INVALID_ARGUMENT,
    "arguments_invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "already_exists": grpc.StatusCode.ALREADY_EXISTS,
    "task_closed": grpc.StatusCode.FAILED_PRECONDITION,
    "invalid_svid": grpc.StatusCode.UNAUTHENTICATED,
    "invalid_bundle": grpc.StatusCode.UNAUTHENTICATED,
    "unauthenticated": grpc.StatusCode.UNAUTHENTICATED,
    "identity_expired": grpc.StatusCode.UNAUTHENTICATED,
    "identity_lost": grpc.StatusCode.UNAUTHENTICATED,
    "identity_unavailable": grpc.StatusCode.UNAVAILABLE,
    "unrecorded": grpc.StatusCode.UNAVAILABLE,
    "no_signing_key": grpc.StatusCode.UNAVAILABLE,
    "draining": grpc.StatusCode.UNAVAILABLE,
    "not_allowed": grpc.StatusCode.PERMISSION_DENIED,
    "not_found": grpc.StatusCode.NOT_FOUND,
    "open_late": grpc.StatusCode.DEADLINE_EXCEEDED,
    "overloaded": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "subscription_lost": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "ledger_broken": grpc.StatusCode.DATA_LOSS,
}
"""By stable error code. What is not here is INTERNAL, and its text stays in the gateway's log."""

_log = logging.getLogger(__name__)


class UnauthenticatedError(GatewayError):
    """The caller has not proven who it is on this connection."""

    code = "unauthenticated"


class OverloadedError(GatewayError):
    """More than the bounds of a stream or of an identity allow; `retry_after` says when to ask again, if that helps."""

    code = "overloaded"

    def __init__(self, reason: str, retry_after: timedelta | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class OpenLateError(ProtocolError):
    """The first message did not come in time."""

    code: ClassVar[str] = "open_late"


class CallLostError(GatewayError):
    """The call cannot go on; `code` says why: `identity_expired`, `identity_lost` or `draining`."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.lost = code


def status_of(error: BaseException) -> tuple[grpc.StatusCode, str, str]:
    """The gRPC status, the text that is safe to show to the peer, and the stable code of an error."""
    if isinstance(error, CallLostError):
        return STATUS[error.lost], str(error), error.lost
    if isinstance(error, StepgrantError | GatewayError):
        status = STATUS.get(error.code)
        if status is not None:
            return status, f"{error.code}: {error}", error.code
    return grpc.StatusCode.INTERNAL, "internal: the gateway failed; its log says more", "internal"


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: BaseException) -> NoReturn:
    """Ends the call with the status of `error`. What has no row in the table is logged with its traceback.

    Raises:
        CancelledError: the other side is gone, and with it whom to tell; gRPC says so itself a moment later.
    """
    if isinstance(error, grpc.aio.InternalError):
        _log.debug("A call was gone while it was answered: %s", error)
        raise asyncio.CancelledError from error
    status, text, code = status_of(error)
    if status is grpc.StatusCode.INTERNAL:
        _log.error("A call failed.", exc_info=error, extra={"event": "call_failed"})
    metadata: tuple[tuple[str, str], ...] = ((ERROR_CODE_KEY, code),)
    if isinstance(error, OverloadedError) and error.retry_after is not None:
        metadata += ((RETRY_AFTER_KEY, str(error.retry_after // timedelta(milliseconds=1))),)
    await context.abort(status, text, metadata)
    raise AssertionError("abort raises")  # pragma: no cover - grpc.aio's abort always raises
