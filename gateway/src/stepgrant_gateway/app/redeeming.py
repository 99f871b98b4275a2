"""Redemption and attestation: what a resource says of a grant, and what the gateway answers."""

from __future__ import annotations

import asyncio
from typing import Final

from stepgrant_gateway.app.feed import Feed
from stepgrant_gateway.app.open_tasks import Step
from stepgrant_gateway.app.revoking import Endings
from stepgrant_gateway.app.state import State
from stepgrant_gateway.app.undertakings import Undertakings
from stepgrant_gateway.core.boundary import Outcome, Redeemed
from stepgrant_gateway.core.errors import NotFoundError, UnrecordedError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.observations import UNOBSERVED, Count
from stepgrant_gateway.core.ports import Clock, Journal, Observer, Receipt

MAX_REDEMPTIONS: Final = 10_000
"""Redemption ids remembered for one step, so that the same id gets the same answer."""

_UNKNOWN: Final = Redeemed(False, 0, "unknown_grant", "this gateway knows no such grant for this audience.")


class Redeeming:
    """Takes uses, atomically: one event loop, one step, one counter (invariant 8)."""

    def __init__(
        self, *, state: State, clock: Clock, journal: Journal, feed: Feed, endings: Endings,
        observer: Observer = UNOBSERVED,
    ) -> None:  # fmt: skip
        self._state = state
        self._clock = clock
        self._journal = journal
        self._feed = feed
        self._endings = endings
        self._observer = observer
        self._undertakings = Undertakings()

    async def redeem(self, caller: str, audience: str, grant_id: str, redemption_id: str) -> Redeemed:
        """Whether the use is taken; durable before this returns. The same redemption id gets the same answer.

        Raises:
            NotAllowedError: the audience is not the caller's.
            UnrecordedError: the ledger cannot record; the use is not taken.
        """
        self._feed.require_verifier(caller, audience)
        try:
            redeemed = await self._redeem(caller, audience, grant_id, redemption_id)
        except UnrecordedError as error:
            self._observer.count(Count.REDEMPTION, error.code)
            raise
        self._observer.count(Count.REDEMPTION, "accepted" if redeemed.accepted else redeemed.code)
        return redeemed

    async def _redeem(self, caller: str, audience: str, grant_id: str, redemption_id: str) -> Redeemed:
        step = self._state.grants.get(grant_id)
        if step is None or step.grant is None or step.grant.audience != audience:
            return _UNKNOWN
        known = step.redemptions.get(redemption_id)
        if known is not None:
            return known if isinstance(known, Redeemed) else await asyncio.shield(known)
        refused = self._refused(step, grant_id)
        if refused is not None:
            return refused
        if step.uses_left is not None:
            step.uses_left -= 1
        event = Event(
            EventType.GRANT_REDEEMED,
            self._clock.now(),
            {
                "task": step.key[0],
                "step": step.key[1],
                "grant": grant_id,
                "tool": step.declared.tool,
                "redemption": redemption_id,
                "remaining": step.uses_left,
                "by": caller,
            },
        )
        receipt = self._journal.record(event)
        # Whoever asks again under this id waits for the same answer, so it must come even if the first one hangs up.
        taking = self._undertakings.begin(self._take(step, redemption_id, receipt, step.uses_left or 0))
        step.redemptions[redemption_id] = taking
        return await asyncio.shield(taking)

    async def _take(self, step: Step, redemption_id: str, receipt: Receipt, remaining: int) -> Redeemed:
        try:
            await receipt.durable()
        except UnrecordedError:
            # Not on record, so not taken: the resource has not acted, and may try again.
            if step.uses_left is not None:
                step.uses_left += 1
            # A step that has ended long enough has forgotten its redemptions already.
            step.redemptions.pop(redemption_id, None)
            raise
        if step.live:
            self._witness(step)
            answer = Redeemed(True, remaining)
        else:
            answer = Redeemed(False, 0, "revoked", _ended(step))
        if redemption_id in step.redemptions:
            # The answer alone: a task would be kept with its call, for as long as the grant could be presented.
            step.redemptions[redemption_id] = answer
        return answer

    async def attest(
        self, caller: str, audience: str, grant_id: str, outcome: Outcome, result_sha256: bytes | None
    ) -> bool:
        """Records how the resource saw the call come out; True if the step had ended before.

        Raises:
            NotAllowedError: the audience is not the caller's.
            NotFoundError: no such grant for this audience.
            UnrecordedError: the ledger cannot record.
        """
        self._feed.require_verifier(caller, audience)
        step = self._state.grants.get(grant_id)
        if step is None or step.grant is None or step.grant.audience != audience:
            raise NotFoundError(_UNKNOWN.reason)
        return await self._undertakings.finish(self._attest(step, caller, grant_id, outcome, result_sha256))

    async def _attest(
        self, step: Step, caller: str, grant_id: str, outcome: Outcome, result_sha256: bytes | None
    ) -> bool:
        late = not step.live
        event = Event(
            EventType.STEP_ATTESTED,
            self._clock.now(),
            {
                "task": step.key[0],
                "step": step.key[1],
                "grant": grant_id,
                "tool": step.declared.tool,
                "outcome": outcome.value,
                "result_sha256": result_sha256.hex() if result_sha256 is not None else None,
                "late": late,
                "by": caller,
            },
        )
        await self._journal.record(event).durable()
        if outcome is Outcome.COMPLETED:
            self._witness(step)
        return late

    def _refused(self, step: Step, grant_id: str) -> Redeemed | None:
        if not step.live or not self._endings.still_permitted(self._state.tasks[step.of], step):
            code = "expired" if step.code == "expired" else "revoked"
            return Redeemed(False, 0, code, _ended(step))
        if step.held.grant_id != grant_id:
            return Redeemed(False, 0, "superseded", "the step has a newer grant.")
        if step.held.answer is None:
            return _UNKNOWN
        if step.held.lifetime.expires_at <= self._clock.now():
            return Redeemed(False, 0, "expired", "the grant has run out.")
        if step.uses_left == 0 or len(step.redemptions) >= MAX_REDEMPTIONS:
            return Redeemed(False, 0, "used_up", "every use of this grant is taken.")
        return None

    def _witness(self, step: Step) -> None:
        task = self._state.tasks.get(step.key[0])
        if task is not None:
            task.shared.completed.add(step.declared.tool)


def _ended(step: Step) -> str:
    return f"the step is {step.state.value}: {step.reason or step.code}"
