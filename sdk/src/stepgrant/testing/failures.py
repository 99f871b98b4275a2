"""How a scripted gateway says that something went wrong."""

from __future__ import annotations

import grpc

from stepgrant.errors import (
    ArgumentsInvalidError,
    Denial,
    DenialCode,
    InvalidInputError,
    InvalidSvidError,
    StepgrantError,
)


class StepExistsError(StepgrantError):
    """The step id stands for another intent."""

    code = "step_exists"


def invalid(error: ArgumentsInvalidError) -> Denial:
    """The denial that JSON which is not strict gets."""
    return Denial(DenialCode.ARGUMENTS_INVALID, error.reason, error.fix, argument=error.argument)


def status_of(error: Exception) -> grpc.StatusCode:
    """The status that a stream is ended with."""
    if isinstance(error, StepExistsError):
        return grpc.StatusCode.ALREADY_EXISTS
    if isinstance(error, InvalidSvidError):
        return grpc.StatusCode.UNAUTHENTICATED
    return grpc.StatusCode.INVALID_ARGUMENT if isinstance(error, InvalidInputError) else grpc.StatusCode.INTERNAL
