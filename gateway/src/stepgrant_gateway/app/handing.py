"""Hand-offs: a live step is handed on to another workload, within an envelope."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from stepgrant.errors import Denial, DenialCode, ProtocolError
from stepgrant.grant import MAX_CHAIN
from stepgrant.ids import ULID_RANDOM_BYTES, ulid
from stepgrant_gateway.app.answers import Answer, answered
from stepgrant_gateway.app.authorizer import Rejected, decide_hand_off
from stepgrant_gateway.app.documents import context_document
from stepgrant_gateway.app.open_tasks import MAX_STEP_DEPTH, Origin, Task
from stepgrant_gateway.app.refusals import UNRECORDED, denial, limit, over
from stepgrant_gateway.app.revoking import Endings
from stepgrant_gateway.app.state import State
from stepgrant_gateway.core.assignments import TICKET_BYTES
from stepgrant_gateway.core.boundary import HandedOff, HandOffStep
from stepgrant_gateway.core.decision import Refused
from stepgrant_gateway.core.delegation import contains
from stepgrant_gateway.core.errors import UnrecordedError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.hand_offs import HandOff, ticket_digest
from stepgrant_gateway.core.ports import Clock, Entropy, Journal
from stepgrant_gateway.core.recorded import denied

MAX_HAND_OFFS: Final = 16
"""Times that one step is handed on."""


class Handing:
    """Hands steps on, one decision each."""

    def __init__(
        self, *, state: State, clock: Clock, entropy: Entropy, journal: Journal, endings: Endings
    ) -> None:  # fmt: skip
        self._state = state
        self._clock = clock
        self._entropy = entropy
        self._journal = journal
        self._endings = endings

    def hand_off(self, task: Task, request: HandOffStep) -> Answer[HandedOff | Denial]:
        """What the receiver can open a branch with for as long as the step lives, once that is durable; or why not.

        Raises:
            ProtocolError: no such step was declared on this stream's task.
        """
        step = task.own_step(request.step_id)
        if step is None:
            raise ProtocolError(f"step {request.step_id} was not declared in this task")
        if not step.live or step.held.answer is None or not self._endings.still_permitted(task, step):
            return answered(over(step))
        now, ticket = self._clock.now(), self._entropy(TICKET_BYTES)
        hand_off_id = ulid(now, self._entropy(ULID_RANDOM_BYTES))
        hand_off = HandOff(hand_off_id, ticket_digest(ticket), request.workload, request.envelope)
        origin = Origin(hand_off, step, task)
        refused = _beyond(origin)
        if refused is not None:
            return self._deny(origin, Rejected(refused), now)
        verdict = decide_hand_off(self._state, origin, task.links(step.peer), now)
        if isinstance(verdict, Rejected):
            return self._deny(origin, verdict, now)
        decision_id = ulid(now, self._entropy(ULID_RANDOM_BYTES))
        step.hand_offs.append(hand_off)
        made = Event(
            EventType.HAND_OFF_MADE,
            now,
            {
                **self._said(origin),
                "decision": decision_id,
                "policies": [permit.place.policy_id for permit in verdict.permits],
            },
            {"purpose": request.purpose},
        )

        def conclude(lost: UnrecordedError | None) -> HandedOff | Denial:
            if lost is not None:
                return denial(UNRECORDED, decision_id, request.step_id)
            if not step.live:
                return over(step)
            self._state.hand_offs[hand_off.ticket_sha256] = origin
            return HandedOff(request.step_id, hand_off_id, ticket, decision_id)

        return self._when_durable(made, conclude)

    def _deny(self, origin: Origin, rejected: Rejected, now: datetime) -> Answer[HandedOff | Denial]:
        refused, decision_id = rejected.refused, ulid(now, self._entropy(ULID_RANDOM_BYTES))
        origin.giver.shared.denials += 1
        seen = {"context": context_document(rejected.questions)} if rejected.questions else None
        said = {**self._said(origin), **denied(refused, decision_id=decision_id)}
        event = Event(EventType.HAND_OFF_DENIED, now, said, seen)

        def conclude(lost: UnrecordedError | None) -> Denial:
            return denial(refused if lost is None else UNRECORDED, decision_id, origin.step.key[1])

        return self._when_durable(event, conclude)

    def _said(self, origin: Origin) -> dict[str, object]:
        return {
            **origin.giver.named,
            "step": origin.step.key[1],
            "hand_off": origin.hand_off.hand_off_id,
            "chain": [*origin.giver.chain, origin.hand_off.receiver],
            "tools": sorted(origin.hand_off.envelope.tools),
            "policy": self._state.policy.digest,
            "revision": self._state.revision,
        }

    def _when_durable(
        self, event: Event, conclude: Callable[[UnrecordedError | None], HandedOff | Denial]
    ) -> Answer[HandedOff | Denial]:
        answer: Answer[HandedOff | Denial] = Answer()
        self._journal.record(event).then(lambda lost: answer.set_result(conclude(lost)))
        return answer


def _beyond(origin: Origin) -> Refused | None:
    """What stands in the way of handing this step on, whatever policy says."""
    hand_off, step, giver = origin.hand_off, origin.step, origin.giver
    # 1. The chain is of few workloads, none of them twice, so that a decision has a bound and nothing goes in circles.
    if hand_off.receiver in giver.chain:
        reason = f"{hand_off.receiver} has part in this task already, further up."
        return Refused(DenialCode.LIMIT_EXCEEDED, reason, "let it declare the step, or hand on to another workload.")
    if len(giver.chain) >= MAX_CHAIN:
        return limit(f"a step is handed on over at most {MAX_CHAIN} workloads.", "let this workload do the step.")
    # 2. The branch's steps are not nested too deep, and 3. the step is not handed on too often.
    if step.depth >= MAX_STEP_DEPTH:
        return limit(f"steps nest at most {MAX_STEP_DEPTH} deep.", "hand a step on that is further up.")
    if len(step.hand_offs) >= MAX_HAND_OFFS:
        return limit(f"a step is handed on at most {MAX_HAND_OFFS} times.", "declare another step, and hand that on.")
    # 4. What is handed on is contained in what the step's own children may do, constraint by constraint (invariant 9).
    if step.envelope is None or not contains(step.envelope, hand_off.envelope):
        reason = (
            "this step may have no children."
            if step.envelope is None
            else "the envelope allows more than the children of this step may do."
        )
        return Refused(DenialCode.OUTSIDE_ENVELOPE, reason, "hand on no more than `calls:` of its tool allows.")
    return None
