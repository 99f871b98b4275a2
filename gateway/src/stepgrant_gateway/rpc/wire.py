"""Messages of the agent's stream, read into values and written from them. Bounds first, then meaning."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from stepgrant.errors import Denial, InvalidIdError, ProtocolError
from stepgrant.grant import Binding
from stepgrant.ids import parse_name, parse_tool, parse_ulid
from stepgrant.intent import MAX_ARGUMENTS_BYTES, MAX_PARAMETERS_BYTES, Json, parse_object, parse_value
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.v1 import agent_pb2, dispatch_pb2, types_pb2
from stepgrant_gateway.core.assignments import TICKET_BYTES
from stepgrant_gateway.core.boundary import (
    DeclareStep,
    HandedOff,
    HandOffStep,
    Outcome,
    Pushed,
    ReportStep,
    StepEnded,
    StepGranted,
    StepSettled,
    TaskClosed,
    TaskOpened,
)
from stepgrant_gateway.core.delegation import AnyValue, AtMost, Constraint, Envelope, Exact, OneOf, Prefix, SubsetOf
from stepgrant_gateway.rpc.limits import (
    DIGEST_BYTES,
    MAX_CONSTRAINT_BYTES,
    MAX_DECIMAL,
    MAX_ENVELOPE_ARGUMENTS,
    MAX_ENVELOPE_TOOLS,
    MAX_ERROR_CLASS,
    MAX_ID,
    MAX_TEXT,
    MAX_WANTED_TTL,
    RESUME_TOKEN_BYTES,
)

_DECIMAL: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_OUTCOMES: Final[Mapping[int, Outcome]] = {
    types_pb2.OUTCOME_COMPLETED: Outcome.COMPLETED,
    types_pb2.OUTCOME_FAILED: Outcome.FAILED,
}
_BINDINGS: Final[Mapping[Binding, agent_pb2.Binding.ValueType]] = {
    Binding.MTLS: agent_pb2.BINDING_MTLS,
    Binding.KEY: agent_pb2.BINDING_KEY,
}


def bounded(text: str, most: int, what: str, *, least: int = 0) -> str:
    """The same text, if its length is within bounds.

    Raises:
        ProtocolError: it is not; `what` names the field.
    """
    if not least <= len(text) <= most:
        raise ProtocolError(f"{what} has {len(text)} characters; it takes {least} to {most}")
    return text


def ulid_field(text: str, what: str) -> str:
    """The same text, if it is a canonical ULID; raises ProtocolError."""
    try:
        return parse_ulid(text, what)
    except InvalidIdError as error:
        raise ProtocolError(str(error)) from error


def digest_field(data: bytes, what: str) -> bytes | None:
    """32 bytes, or None for none; raises ProtocolError for anything between."""
    if data and len(data) != DIGEST_BYTES:
        raise ProtocolError(f"{what} has {len(data)} bytes; a SHA-256 has {DIGEST_BYTES}")
    return data or None


def outcome_field(value: int, what: str) -> Outcome:
    """Completed or failed; raises ProtocolError."""
    outcome = _OUTCOMES.get(value)
    if outcome is None:
        raise ProtocolError(f"{what} is neither completed nor failed")
    return outcome


def resume_token_of(message: agent_pb2.Open) -> bytes:
    """The resume token, or nothing for a new task; raises ProtocolError for anything between."""
    if message.resume_token and len(message.resume_token) != RESUME_TOKEN_BYTES:
        raise ProtocolError(f"Open.resume_token has {len(message.resume_token)} bytes; it takes {RESUME_TOKEN_BYTES}")
    return message.resume_token


def assignment_of(message: agent_pb2.Open) -> bytes:
    """The ticket of an assignment, or nothing; raises ProtocolError for anything between."""
    ticket = message.assignment
    if ticket and message.resume_token:
        raise ProtocolError(
            "Open has a resume_token and an assignment: a task that is taken up again is assigned already"
        )
    return ticket_field(ticket, "Open.assignment") if ticket else b""


def hand_off_ticket_of(message: agent_pb2.Open) -> bytes:
    """The ticket of a hand-off, or nothing; raises ProtocolError for anything between, and for what cannot go with it."""
    if not message.hand_off:
        return b""
    for name in ("resume_token", "assignment", "subject_token"):
        if getattr(message, name):
            raise ProtocolError(f"Open has a hand_off and a {name}: a branch has what its task has")
    return ticket_field(message.hand_off, "Open.hand_off")


def ticket_field(data: bytes, what: str) -> bytes:
    """The same bytes, if they are as many as a ticket has; raises ProtocolError."""
    if len(data) != TICKET_BYTES:
        raise ProtocolError(f"{what} has {len(data)} bytes; a ticket has {TICKET_BYTES}")
    return data


def parameters_of(message: agent_pb2.Open | dispatch_pb2.AssignRequest) -> Mapping[str, Json]:
    """The task's parameters; raises ArgumentsInvalidError."""
    return parse_object(message.parameters_json, max_bytes=MAX_PARAMETERS_BYTES, what="parameters")


def declare_of(message: agent_pb2.Declare) -> DeclareStep:
    """The declared step.

    Raises:
        ProtocolError: a field is not what the protocol says.
        ArgumentsInvalidError: `arguments_json` is not strict JSON; the answer to that is a denial.
    """
    step_id = ulid_field(message.step_id, "Declare.step_id")
    parent = ulid_field(message.parent_step_id, "Declare.parent_step_id") if message.parent_step_id else None
    wanted = None
    if message.wanted_ttl_ms:
        if message.wanted_ttl_ms > MAX_WANTED_TTL // timedelta(milliseconds=1):
            raise ProtocolError(
                f"Declare.wanted_ttl_ms is more than {MAX_WANTED_TTL}; leave it out to get what policy gives"
            )
        wanted = timedelta(milliseconds=message.wanted_ttl_ms)
    envelope = envelope_of(message.envelope) if message.HasField("envelope") else None
    try:
        tool = parse_tool(message.tool, "Declare.tool")
    except InvalidIdError as error:
        raise ProtocolError(str(error)) from error
    purpose = bounded(message.purpose, MAX_TEXT, "Declare.purpose")
    arguments = parse_object(message.arguments_json, max_bytes=MAX_ARGUMENTS_BYTES)
    return DeclareStep(step_id, parent, tool, arguments, purpose, wanted, envelope)


def renew_of(message: agent_pb2.Renew) -> str:
    """The id of the step that is to be renewed; raises ProtocolError."""
    return ulid_field(message.step_id, "Renew.step_id")


def hand_off_of(message: agent_pb2.HandOff) -> HandOffStep:
    """The step that is to be handed on.

    Raises:
        ProtocolError: a field is not what the protocol says.
        ArgumentsInvalidError: a value of the envelope is not strict JSON; the answer to that is a denial.
    """
    step_id = ulid_field(message.step_id, "HandOff.step_id")
    try:
        workload = str(parse_spiffe_id(message.workload, what="HandOff.workload"))
    except InvalidIdError as error:
        raise ProtocolError(str(error)) from error
    purpose = bounded(message.purpose, MAX_TEXT, "HandOff.purpose")
    return HandOffStep(step_id, workload, envelope_of(message.envelope), purpose)


def report_of(message: agent_pb2.Report) -> ReportStep:
    """The report of a step; raises ProtocolError."""
    return ReportStep(
        step_id=ulid_field(message.step_id, "Report.step_id"),
        outcome=outcome_field(message.outcome, "Report.outcome"),
        result_sha256=digest_field(message.result_sha256, "Report.result_sha256"),
        error_class=bounded(message.error_class, MAX_ERROR_CLASS, "Report.error_class"),
    )


def envelope_of(message: types_pb2.Envelope) -> Envelope:
    """The envelope; raises ProtocolError or ArgumentsInvalidError."""
    if not 1 <= len(message.tools) <= MAX_ENVELOPE_TOOLS:
        raise ProtocolError(f"Envelope.tools has {len(message.tools)} entries; it takes 1 to {MAX_ENVELOPE_TOOLS}")
    tools: dict[str, Mapping[str, Constraint]] = {}
    for entry in message.tools:
        if len(entry.arguments) > MAX_ENVELOPE_ARGUMENTS:
            raise ProtocolError(f"an envelope has more than {MAX_ENVELOPE_ARGUMENTS} constraints for one tool")
        try:
            tool = parse_tool(entry.tool, "EnvelopeTool.tool")
            constraints = {parse_name(item.argument, "argument"): _constraint(item) for item in entry.arguments}
        except InvalidIdError as error:
            raise ProtocolError(str(error)) from error
        if tool in tools or len(constraints) != len(entry.arguments):
            raise ProtocolError(f"an envelope names {tool} or one of its arguments twice")
        tools[tool] = constraints
    return Envelope(tools)


def _constraint(message: types_pb2.ArgumentConstraint) -> Constraint:
    what = f"the constraint of {message.argument}"
    match message.WhichOneof("kind"):
        case "exact_json":
            return Exact(parse_value(message.exact_json, max_bytes=MAX_CONSTRAINT_BYTES, what=what))
        case "one_of_json":
            return OneOf(_values(message.one_of_json, what))
        case "subset_of_json":
            return SubsetOf(_values(message.subset_of_json, what))
        case "at_most":
            if len(message.at_most) > MAX_DECIMAL or _DECIMAL.fullmatch(message.at_most) is None:
                raise ProtocolError(f"{what} is not a plain decimal of at most {MAX_DECIMAL} characters")
            return AtMost(Decimal(message.at_most))
        case "prefix":
            return Prefix(bounded(message.prefix, MAX_ID, what, least=1))
        case "any" if message.any:
            return AnyValue()
        case _:
            raise ProtocolError(f"{what} sets no kind that this revision knows")


def _values(text: str, what: str) -> tuple[Json, ...]:
    values = parse_value(text, max_bytes=MAX_CONSTRAINT_BYTES, what=what)
    if not isinstance(values, list):
        raise ProtocolError(f"{what} is not a JSON array")
    return tuple(values)


def millis(time: datetime) -> int:
    """Milliseconds since the Unix epoch, rounded down."""
    return int(time.timestamp() * 1000)


def opened(value: TaskOpened, resume_token: bytes, instance_id: str, limits: agent_pb2.Limits) -> agent_pb2.Opened:
    """The task is open, or taken up again."""
    return agent_pb2.Opened(
        task_id=value.task_id,
        instance_id=instance_id,
        expires_unix_ms=millis(value.expires_at),
        tools=[
            agent_pb2.ToolOffer(tool=offer.tool, audience=offer.audience, binding=_BINDINGS[offer.binding])
            for offer in value.tools
        ],
        limits=limits,
        resume_token=resume_token,
        live_steps=value.live_steps,
        branch_id=value.branch_id,
    )


def granted(value: StepGranted) -> agent_pb2.Granted:
    """The grant of a step."""
    return agent_pb2.Granted(
        step_id=value.step_id,
        decision_id=value.decision_id,
        grant=value.token,
        grant_id=value.grant_id,
        expires_unix_ms=millis(value.expires_at),
        uses=value.uses or 0,
        tier=value.tier.value,
        audience=value.audience.id,
        binding=_BINDINGS[value.audience.binding],
        target=value.target,
        at_unix_ms=millis(value.at),
        step_expires_unix_ms=millis(value.step_expires_at),
        policies=value.policies,
    )


def handed_off(value: HandedOff) -> agent_pb2.HandedOff:
    """The step is handed on."""
    return agent_pb2.HandedOff(
        step_id=value.step_id, hand_off_id=value.hand_off_id, ticket=value.ticket, decision_id=value.decision_id
    )


def denied(value: Denial) -> types_pb2.Denied:
    """The answer "no"."""
    return types_pb2.Denied(
        step_id=value.step_id,
        decision_id=value.decision_id,
        code=value.code.value,
        reason=value.reason[:MAX_TEXT],
        next=value.next[:MAX_TEXT],
        argument=value.argument[:256],
        retry_after_ms=(value.retry_after or timedelta(0)) // timedelta(milliseconds=1),
    )


def settled(value: StepSettled) -> agent_pb2.Settled:
    """The step is over."""
    return agent_pb2.Settled(step_id=value.step_id, state=value.state, late=value.late)


def closed(value: TaskClosed) -> agent_pb2.Closed:
    """The task is over."""
    return agent_pb2.Closed(code=value.code[:64], reason=value.reason[:MAX_TEXT])


def pushed(value: Pushed) -> agent_pb2.GatewayMessage:
    """What the gateway says unasked."""
    match value:
        case StepEnded():
            return agent_pb2.GatewayMessage(
                revoked=agent_pb2.Revoked(
                    step_id=value.step_id,
                    state=value.state,
                    code=value.code[:64],
                    reason=value.reason[:MAX_TEXT],
                    at_unix_ms=millis(value.at),
                )
            )
        case TaskClosed():
            return agent_pb2.GatewayMessage(closed=closed(value))


def binding(value: Binding) -> agent_pb2.Binding.ValueType:
    """The wire's word for a binding."""
    return _BINDINGS[value]
