"""Events: what the ledger says happened. State is a fold over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Final

EVENT_SCHEMA: Final = 1
UNDELIVERED: Final = "undelivered"
"""The code of an end of what nobody was told of: it counts as if it had never been."""


class EventType(Enum):
    """Kinds of events. An unknown one stops a fold."""

    GATEWAY_STARTED = "gateway.started"
    GATEWAY_STOPPED = "gateway.stopped"
    KEY_ACTIVATED = "key.activated"
    POLICY_ACTIVATED = "policy.activated"
    POLICY_REFUSED = "policy.refused"
    ASSIGNMENT_MADE = "assignment.made"
    ASSIGNMENT_DENIED = "assignment.denied"
    ASSIGNMENT_WITHDRAWN = "assignment.withdrawn"
    TASK_OPENED = "task.opened"
    TASK_DENIED = "task.denied"
    TASK_LINGERS = "task.lingers"
    TASK_TAKEN_UP = "task.taken_up"
    TASK_TAKEN_OVER = "task.taken_over"
    TASK_CLOSED = "task.closed"
    HAND_OFF_MADE = "hand_off.made"
    HAND_OFF_DENIED = "hand_off.denied"
    BRANCH_OPENED = "branch.opened"
    BRANCH_CLOSED = "branch.closed"
    STEP_GRANTED = "step.granted"
    STEP_RENEWED = "step.renewed"
    STEP_DENIED = "step.denied"
    STEP_ENDED = "step.ended"
    STEP_LATE_OUTCOME = "step.late_outcome"
    STEP_ATTESTED = "step.attested"
    GRANT_REDEEMED = "grant.redeemed"
    LOCK_SET = "lock.set"
    LOCK_LIFTED = "lock.lifted"
    SUBJECT_LOGGED_OUT = "subject.logged_out"
    BUNDLE_CHANGED = "bundle.changed"
    ISSUER_KEYS_CHANGED = "issuer.keys_changed"
    IDENTITY_DENIED = "identity.denied"
    CLOCK_SET_BACK = "clock.set_back"
    CLOCK_FORGIVEN = "clock.forgiven"
    INSECURE_CHOICE = "insecure.choice"
    LEDGER_SNAPSHOT = "ledger.snapshot"


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `data` is plain JSON (str, int, bool, None, list, dict; no floats) and goes into the chain as it is.

    `input`, if any, is what was decided on. It is stored beside the chain, sealed; the chain holds only its salted
    digest. In its members `arguments` and `parameters`, names listed in `sensitive` are replaced by keyed digests, and in
    `claims` those that are listed as `claims.NAME`.
    Tokens, keys and secrets belong in neither.
    """

    type: EventType
    at: datetime
    data: Mapping[str, Any]
    input: Mapping[str, Any] | None = None
    sensitive: frozenset[str] = field(default=frozenset())
