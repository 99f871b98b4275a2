"""Every error and every denial of Stepgrant: one root, a stable code each, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import ClassVar


class StepgrantError(Exception):
    """Root of all errors of Stepgrant. `code` is stable; the text says what was wrong, where, and what to do."""

    code: ClassVar[str] = "stepgrant_error"


class MisuseError(StepgrantError):
    """The program uses the library wrongly: a bug of the caller, never of the peer."""

    code = "misuse"


class InvalidInputError(StepgrantError):
    """Bytes from outside that are not what they must be. Hostile or broken, refused either way."""

    code = "invalid_input"


class InvalidIdError(InvalidInputError):
    """Not a SPIFFE ID, ULID or name in its one canonical form."""

    code = "invalid_id"


class InvalidSvidError(InvalidInputError):
    """An SVID that does not verify, or not for the expected trust domain or ID."""

    code = "invalid_svid"


class InvalidBundleError(InvalidInputError):
    """A trust bundle that cannot be used."""

    code = "invalid_bundle"


class ProtocolError(InvalidInputError):
    """A message that the protocol does not allow: unknown field, unset oneof, unknown enum value, out of bounds."""

    code = "protocol_error"


class ArgumentsInvalidError(InvalidInputError):
    """Arguments or parameters that are not strict JSON or not of the declared type.

    `argument` is the path of what was wrong, such as `to[0]` (empty: the whole); `fix` says what to do.
    """

    code = "arguments_invalid"

    def __init__(self, reason: str, *, argument: str = "", fix: str = "") -> None:
        super().__init__(f"{reason}; {fix}" if fix else reason)
        self.reason = reason
        self.argument = argument
        self.fix = fix


class IdentityUnavailableError(StepgrantError):
    """No SVID or no bundle can be had now. Nothing was sent."""

    code = "identity_unavailable"


class GatewayUnavailableError(StepgrantError):
    """The gateway cannot be reached, cannot record, has too much to do, or is not who it must be. The tool body has not run.

    `retry_after`: when it said to come back, if it did.
    """

    code = "gateway_unavailable"

    def __init__(self, reason: str, retry_after: timedelta | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class NobodyListensError(GatewayUnavailableError):
    """At no address of the gateway does anything listen: it has stopped."""


class TaskClosedError(StepgrantError):
    """The task is over, so no step can be declared or renewed in it."""

    code = "task_closed"


class DenialCode(Enum):
    """Why a boundary was refused. Stable; docs/protocol.md has a line for each."""

    NO_PERMIT = "no_permit"
    FORBIDDEN = "forbidden"
    ARGUMENTS_INVALID = "arguments_invalid"
    BUDGET_EXHAUSTED = "budget_exhausted"
    LOCKED = "locked"
    TOOL_CHANGED = "tool_changed"
    PARENT_ENDED = "parent_ended"
    OUTSIDE_ENVELOPE = "outside_envelope"
    IDENTITY_EXPIRING = "identity_expiring"
    CERTIFICATE_REQUIRED = "certificate_required"
    TASK_EXPIRING = "task_expiring"
    SUBJECT_EXPIRING = "subject_expiring"
    SUBJECT_INVALID = "subject_invalid"
    SUBJECT_REQUIRED = "subject_required"
    STEP_EXPIRING = "step_expiring"
    STEP_ENDED = "step_ended"
    USES_EXHAUSTED = "uses_exhausted"
    LIMIT_EXCEEDED = "limit_exceeded"
    RESUME_REFUSED = "resume_refused"
    HAND_OFF_REFUSED = "hand_off_refused"
    ASSIGNMENT_REFUSED = "assignment_refused"
    POLICY_ERROR = "policy_error"
    OVERLOADED = "overloaded"
    UNRECORDED = "unrecorded"


@dataclass(frozen=True, slots=True)
class Denial:
    """The answer "no" to one boundary: a value, not a failure. Texts are safe to show to the agent."""

    code: DenialCode
    reason: str
    next: str
    argument: str = ""
    decision_id: str = ""
    step_id: str = ""
    retry_after: timedelta | None = None


class Denied(StepgrantError):  # noqa: N818 - the word that section 8 of the design gives to agent developers
    """Raised by the guard in place of the tool body when a step was denied. Carries the denial."""

    code = "denied"

    def __init__(self, denial: Denial, *, what: str) -> None:
        parts = [f"{what} was denied ({denial.code.value}): {denial.reason.rstrip('.')}."]
        if denial.next:
            parts.append(f"What to do: {denial.next.rstrip('.')}.")
        if denial.decision_id:
            parts.append(f"Decision {denial.decision_id}.")
        super().__init__(" ".join(parts))
        self.denial = denial


class Revoked(StepgrantError):  # noqa: N818 - as Denied
    """The step ended against the program's will while its body ran; its grant is dead.

    `state` is `expired`, `revoked` or `abandoned` (its stream is gone), `cause` the stable code of what ended it (`locked`,
    `policy_changed`, `gateway_unavailable`, ...).
    """

    code = "revoked"

    def __init__(self, *, step_id: str, state: str, cause: str, reason: str) -> None:
        super().__init__(f"step {step_id} is {state} ({cause}): {reason}")
        self.step_id = step_id
        self.state = state
        self.cause = cause
        self.reason = reason


class RefusalCode(Enum):
    """Why a resource refused a call. Stable; docs/protocol.md has a line for each."""

    GRANT_MISSING = "grant_missing"
    GRANT_MALFORMED = "grant_malformed"
    GRANT_HEADER = "grant_header"
    UNKNOWN_KEY = "unknown_key"
    SIGNATURE = "signature"
    CLAIMS = "claims"
    ISSUER = "issuer"
    AUDIENCE = "audience"
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"
    HOLDER = "holder"
    UNREGISTERED_CALL = "unregistered_call"
    CALL_MALFORMED = "call_malformed"
    TOOL = "tool"
    TOOL_CHANGED = "tool_changed"
    TARGET = "target"
    ARGUMENTS = "arguments"
    REVOKED = "revoked"
    LOCKED = "locked"
    FEED_STALE = "feed_stale"
    USED_UP = "used_up"
    REDEMPTION_UNAVAILABLE = "redemption_unavailable"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a resource answers to a call that no live grant covers. Safe to show to the caller."""

    code: RefusalCode
    reason: str
    next: str = field(default="")


class GrantRefusedError(StepgrantError):
    """A call that no live grant covers: the handler has not run. Carries the refusal."""

    code = "grant_refused"

    def __init__(self, code: RefusalCode, reason: str, next_step: str = "") -> None:
        super().__init__(f"{code.value}: {reason}" + (f" {next_step}" if next_step else ""))
        self.refusal = Refusal(code, reason, next_step)
