"""The agent's stream: messages from values, and values from messages that have been checked (design 3, INV-11)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from stepgrant._wire_strict import refuse_unknown
from stepgrant.answers import Answer, Challenge, Closed, Ended, Grant, HandedOff, Limits, Opened, Settled, ToolOffer
from stepgrant.envelope import Constraint, Envelope, Form
from stepgrant.errors import Denial, DenialCode, InvalidIdError, ProtocolError
from stepgrant.grant import MAX_GRANT_BYTES, PROTOCOL_REVISION, Binding, Tier
from stepgrant.handed import TICKET_BYTES
from stepgrant.ids import parse_tool, parse_ulid
from stepgrant.v1 import agent_pb2, types_pb2

NONCE_BYTES: Final = 32
RESUME_TOKEN_BYTES: Final = 32
MAX_LIVE_STEPS: Final = 1024
"""Steps that a take-over may name; the gateway's own bound is tighter."""
MAX_TOOLS: Final = 1024
MAX_POLICIES: Final = 32
MAX_TEXT: Final = 1024
"""Characters of a purpose, a reason or an advice."""
MAX_CODE: Final = 64
MAX_PATH: Final = 256
"""Characters of an argument path, a policy id or an error class."""
MAX_AUDIENCE: Final = 2048
MAX_TIME_MS: Final = 253402300799000
"""End of the year 9999, the last that a datetime holds."""
STEP_STATES: Final = frozenset({"completed", "failed", "expired", "revoked", "abandoned"})
ENDED_STATES: Final = frozenset({"expired", "revoked"})

_KINDS: Final = {
    Form.EXACT: "exact_json",
    Form.ONE_OF: "one_of_json",
    Form.AT_MOST: "at_most",
    Form.PREFIX: "prefix",
    Form.SUBSET_OF: "subset_of_json",
    Form.ANY: "any",
}
_BINDINGS: Final = {agent_pb2.BINDING_MTLS: Binding.MTLS, agent_pb2.BINDING_KEY: Binding.KEY}


def open_message(
    *,
    task_type: str,
    parameters_json: str,
    purpose: str,
    instance_key: bytes,
    signature: bytes,
    resume_token: bytes = b"",
    subject_token: str = "",
    ticket: bytes = b"",
    hand_off: bytes = b"",
) -> agent_pb2.Open:
    """The first message of the agent: asks to open the task, or with a resume token to take it up again.

    `ticket`, `hand_off`: of the assignment or the hand-off that it is opened with; what is taken up again needs none.
    """
    return agent_pb2.Open(
        revision=PROTOCOL_REVISION,
        task_type=task_type,
        parameters_json=parameters_json,
        purpose=purpose,
        instance_key=instance_key,
        signature=signature,
        resume_token=resume_token,
        subject_token=subject_token,
        assignment=b"" if resume_token else ticket,
        hand_off=b"" if resume_token else hand_off,
    )


def declare_message(
    *,
    step_id: str,
    parent_step_id: str,
    tool: str,
    arguments_json: str,
    purpose: str,
    wanted_ttl: timedelta | None,
) -> agent_pb2.Declare:
    """Asks for the grant of one step. No wanted lifetime = what policy gives."""
    return agent_pb2.Declare(
        step_id=step_id,
        parent_step_id=parent_step_id,
        tool=tool,
        arguments_json=arguments_json,
        purpose=purpose,
        wanted_ttl_ms=0 if wanted_ttl is None else wanted_ttl // timedelta(milliseconds=1),
    )


def hand_off_message(*, step_id: str, workload: str, envelope: Envelope, purpose: str) -> agent_pb2.HandOff:
    """Asks to hand a live step on."""
    tools = [
        types_pb2.EnvelopeTool(tool=tool, arguments=[_constraint(one) for one in constraints])
        for tool, constraints in envelope.items()
    ]
    return agent_pb2.HandOff(
        step_id=step_id, workload=workload, envelope=types_pb2.Envelope(tools=tools), purpose=purpose
    )


def report_message(*, step_id: str, failed: bool, result_sha256: bytes, error_class: str) -> agent_pb2.Report:
    """Says how a step came out."""
    return agent_pb2.Report(
        step_id=step_id,
        outcome=_outcome(failed),
        result_sha256=result_sha256,
        error_class=error_class[:MAX_PATH],
    )


def close_message(*, failed: bool) -> agent_pb2.Close:
    """Ends the task."""
    return agent_pb2.Close(outcome=_outcome(failed))


def read_answer(message: agent_pb2.GatewayMessage) -> tuple[int, Answer]:
    """The number of the request that is answered (0 = pushed) and what the gateway says.

    Raises:
        ProtocolError: anything that the protocol does not allow; the stream has to be closed.
    """
    refuse_unknown(message)
    kind = message.WhichOneof("message")
    try:
        match kind:
            case "challenge":
                answer: Answer = _challenge(message.challenge)
            case "opened":
                answer = _opened(message.opened)
            case "granted":
                answer = _granted(message.granted)
            case "denied":
                answer = read_denied(message.denied)
            case "settled":
                answer = _settled(message.settled)
            case "handed_off":
                answer = _handed_off(message.handed_off)
            case "revoked":
                answer = _ended(message.revoked)
            case "closed":
                answer = Closed(_text(message.closed.code, MAX_CODE, "closed.code"), _reason(message.closed.reason))
            case _:
                raise ProtocolError(f"the gateway sent a message of unknown kind {kind}")
    except InvalidIdError as error:
        raise ProtocolError(f"in the gateway's {kind} {error}") from error
    return message.reply_to, answer


def read_denied(denied: types_pb2.Denied) -> Denial:
    """The denial; an unknown code is refused."""
    try:
        code = DenialCode(denied.code)
    except ValueError:
        raise ProtocolError("the gateway denied with an unknown code; use the same release on both sides") from None
    return Denial(
        code=code,
        reason=_reason(denied.reason),
        next=_bounded(denied.next, MAX_TEXT, "denied.next"),
        argument=_bounded(denied.argument, MAX_PATH, "denied.argument"),
        decision_id=parse_ulid(denied.decision_id, "decision_id") if denied.decision_id else "",
        step_id=parse_ulid(denied.step_id, "step_id") if denied.step_id else "",
        retry_after=_milliseconds(denied.retry_after_ms, "denied.retry_after_ms") if denied.retry_after_ms else None,
    )


def _challenge(challenge: agent_pb2.Challenge) -> Challenge:
    if len(challenge.nonce) != NONCE_BYTES:
        raise ProtocolError(f"the gateway's nonce takes {len(challenge.nonce)} bytes, not {NONCE_BYTES}")
    if challenge.revision != PROTOCOL_REVISION:
        raise ProtocolError(
            f"the gateway speaks protocol revision {challenge.revision}, this SDK {PROTOCOL_REVISION}; "
            "use the same release on both sides"
        )
    return Challenge(
        challenge.nonce, _text(challenge.gateway_id, MAX_AUDIENCE, "challenge.gateway_id"), challenge.revision
    )


def _opened(opened: agent_pb2.Opened) -> Opened:
    if len(opened.tools) > MAX_TOOLS:
        raise ProtocolError(f"the gateway offers {len(opened.tools)} tools, more than {MAX_TOOLS}")
    if not opened.HasField("limits"):
        raise ProtocolError("the gateway opened the task without limits")
    if len(opened.resume_token) != RESUME_TOKEN_BYTES:
        raise ProtocolError(f"the gateway's resume token takes {len(opened.resume_token)} bytes")
    if len(opened.live_steps) > MAX_LIVE_STEPS:
        raise ProtocolError(f"the gateway names {len(opened.live_steps)} live steps, more than {MAX_LIVE_STEPS}")
    limits = opened.limits
    return Opened(
        task_id=parse_ulid(opened.task_id, "task_id"),
        instance_id=parse_ulid(opened.instance_id, "instance_id"),
        expires_at=_time(opened.expires_unix_ms, "opened.expires_unix_ms"),
        tools=tuple(
            ToolOffer(
                parse_tool(offer.tool),
                _text(offer.audience, MAX_AUDIENCE, "opened.tools.audience"),
                _BINDINGS[offer.binding],
            )
            for offer in opened.tools
        ),
        limits=Limits(limits.live_steps, limits.depth, limits.arguments_bytes, limits.steps),
        resume_token=opened.resume_token,
        live_steps=frozenset(parse_ulid(step_id, "live_steps") for step_id in opened.live_steps),
        branch_id=parse_ulid(opened.branch_id, "branch_id") if opened.branch_id else "",
    )


def _granted(granted: agent_pb2.Granted) -> Grant:
    if not granted.grant.isascii() or not 0 < len(granted.grant) <= MAX_GRANT_BYTES:
        raise ProtocolError(f"the gateway's grant is not 1 to {MAX_GRANT_BYTES} bytes of ASCII")
    if len(granted.policies) > MAX_POLICIES:
        raise ProtocolError(f"the gateway names {len(granted.policies)} policies, more than {MAX_POLICIES}")
    try:
        tier = Tier(granted.tier)
    except ValueError:
        raise ProtocolError("the gateway's grant is of an unknown tier; use the same release on both sides") from None
    grant = Grant(
        step_id=parse_ulid(granted.step_id, "step_id"),
        decision_id=parse_ulid(granted.decision_id, "decision_id"),
        grant_id=parse_ulid(granted.grant_id, "grant_id"),
        token=granted.grant,
        audience=_text(granted.audience, MAX_AUDIENCE, "granted.audience"),
        binding=_BINDINGS[granted.binding],
        target=_text(granted.target, MAX_AUDIENCE, "granted.target"),
        tier=tier,
        uses=granted.uses or None,
        at=_time(granted.at_unix_ms, "granted.at_unix_ms"),
        expires_at=_time(granted.expires_unix_ms, "granted.expires_unix_ms"),
        step_expires_at=_time(granted.step_expires_unix_ms, "granted.step_expires_unix_ms"),
        policies=tuple(_text(policy, MAX_PATH, "granted.policies") for policy in granted.policies),
    )
    if not grant.at < grant.expires_at <= grant.step_expires_at:
        raise ProtocolError("the gateway's grant ends before it begins, or after its step")
    return grant


def _settled(settled: agent_pb2.Settled) -> Settled:
    if settled.state not in STEP_STATES:
        raise ProtocolError("the gateway settled a step in an unknown state; use the same release on both sides")
    return Settled(parse_ulid(settled.step_id, "step_id"), settled.state, settled.late)


def _handed_off(handed_off: agent_pb2.HandedOff) -> HandedOff:
    if len(handed_off.ticket) != TICKET_BYTES:
        raise ProtocolError(f"the gateway's ticket takes {len(handed_off.ticket)} bytes, not {TICKET_BYTES}")
    return HandedOff(
        step_id=parse_ulid(handed_off.step_id, "step_id"),
        hand_off_id=parse_ulid(handed_off.hand_off_id, "hand_off_id"),
        ticket=handed_off.ticket,
        decision_id=parse_ulid(handed_off.decision_id, "decision_id"),
    )


def _constraint(constraint: Constraint) -> types_pb2.ArgumentConstraint:
    message = types_pb2.ArgumentConstraint(argument=constraint.argument)
    setattr(message, _KINDS[constraint.form], True if constraint.form is Form.ANY else constraint.text)
    return message


def _ended(revoked: agent_pb2.Revoked) -> Ended:
    if revoked.state not in ENDED_STATES:
        raise ProtocolError("the gateway ended a step in an unknown state; use the same release on both sides")
    _time(revoked.at_unix_ms, "revoked.at_unix_ms")
    return Ended(
        parse_ulid(revoked.step_id, "step_id"),
        revoked.state,
        _text(revoked.code, MAX_CODE, "revoked.code"),
        _reason(revoked.reason),
    )


def _outcome(failed: bool) -> types_pb2.Outcome.ValueType:
    return types_pb2.OUTCOME_FAILED if failed else types_pb2.OUTCOME_COMPLETED


def _reason(text: str) -> str:
    return _bounded(text, MAX_TEXT, "reason")


def _text(text: str, most: int, what: str) -> str:
    if not text:
        raise ProtocolError(f"the gateway left {what} empty")
    return _bounded(text, most, what)


def _bounded(text: str, most: int, what: str) -> str:
    if len(text) > most:
        raise ProtocolError(f"the gateway's {what} takes {len(text)} characters, more than {most}")
    return text


def _time(milliseconds: int, what: str) -> datetime:
    if not 0 < milliseconds <= MAX_TIME_MS:
        raise ProtocolError(f"the gateway's {what} is out of range")
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=milliseconds)


def _milliseconds(value: int, what: str) -> timedelta:
    if value > MAX_TIME_MS:
        raise ProtocolError(f"the gateway's {what} is out of range")
    return timedelta(milliseconds=value)
