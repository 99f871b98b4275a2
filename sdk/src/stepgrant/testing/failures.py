"""How a scripted gateway says that something went wrong."""

from __future__ import annotations

import grpc

from stepgrant._wire import RESUME_TOKEN_BYTES
from stepgrant.errors import (
    ArgumentsInvalidError,
    Denial,
    DenialCode,
    InvalidInputError,
    InvalidSvidError,
    ProtocolError,
    StepgrantError,
)
from stepgrant.grant import PROTOCOL_REVISION
from stepgrant.handed import TICKET_BYTES
from stepgrant.v1 import agent_pb2


class StepExistsError(StepgrantError):
    """The step id stands for another intent."""

    code = "step_exists"


def invalid(error: ArgumentsInvalidError) -> Denial:
    """The denial that JSON which is not strict gets."""
    return Denial(DenialCode.ARGUMENTS_INVALID, error.reason, error.fix, argument=error.argument)


def refuse_malformed(message: agent_pb2.Open) -> None:
    """Raises ProtocolError for an opening that is of another revision, or brings what is not of its size or too much."""
    if message.revision != PROTOCOL_REVISION:
        raise ProtocolError(f"the agent speaks revision {message.revision}")
    if len(message.resume_token) not in {0, RESUME_TOKEN_BYTES}:
        raise ProtocolError("the resume token is not of its size")
    if len(message.assignment) not in {0, TICKET_BYTES} or len(message.hand_off) not in {0, TICKET_BYTES}:
        raise ProtocolError("a ticket is not of its size")
    if [bool(message.resume_token), bool(message.assignment), bool(message.hand_off)].count(True) > 1:
        raise ProtocolError("a task is opened with one ticket, or taken up by its resume token")
    if message.hand_off and message.subject_token:
        raise ProtocolError("a branch has the subject of its task")


def status_of(error: Exception) -> grpc.StatusCode:
    """The status that a stream is ended with."""
    if isinstance(error, StepExistsError):
        return grpc.StatusCode.ALREADY_EXISTS
    if isinstance(error, InvalidSvidError):
        return grpc.StatusCode.UNAUTHENTICATED
    return grpc.StatusCode.INVALID_ARGUMENT if isinstance(error, InvalidInputError) else grpc.StatusCode.INTERNAL
