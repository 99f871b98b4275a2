"""A step as a handle with verbs: `async with task.step(...) as step` holds a grant for as long as the body runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, Token
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from stepgrant.answers import Ended, Grant
from stepgrant.clock import Clock, Timer
from stepgrant.envelope import Bounds
from stepgrant.errors import Denial, DenialCode, Denied, MisuseError, Revoked, StepgrantError
from stepgrant.grant import LEEWAY
from stepgrant.handed import HandOff
from stepgrant.holding import Holder, StepIntent, handing_on
from stepgrant.intent import MAX_PARAMETERS_BYTES, digest, from_python, parse_object
from stepgrant.lease import Lease
from stepgrant.session import Opening
from stepgrant.spans import StepSpan

RENEW_AT: Final = 0.6
"""Share of a grant's life after which it is renewed: late enough to be rare, early enough for further tries."""
RENEW_AGAIN: Final = timedelta(seconds=1)
"""Least time between two tries, when the gateway said that it could not renew just now."""
CURRENT_STEP: Final[ContextVar[Step | None]] = ContextVar("stepgrant_step", default=None)
"""The step whose body runs here; what is called inside inherits it."""

_T = TypeVar("_T")
_PASSING: Final = frozenset({DenialCode.OVERLOADED, DenialCode.UNRECORDED, DenialCode.LIMIT_EXCEEDED})
"""Renewals denied so say nothing of the step: asked again, they may be granted."""
_THROWN: Final = (asyncio.CancelledError, GeneratorExit)
"""How a body hears that its task is cancelled; a generator that is closed on the way hears the latter."""

_log = logging.getLogger(__name__)


class Step:
    """One step: declared on entry, reported on exit. Enter it once, with `async with`.

    Raises on entry:
        Denied: the gateway said no; the body does not run.
        GatewayUnavailableError, TaskClosedError: there is no answer; the body does not run.

    Raises on exit:
        Revoked: the step ended against the program's will. The body is cancelled when that happens.
    """

    def __init__(self, lease: Lease, opening: Opening, intent: StepIntent, clock: Clock, *, renew: bool) -> None:
        self._lease = lease
        self._opening = opening
        self._intent = intent
        self.holder: Holder = lease.holder
        self._clock = clock
        self._renews = renew
        self._grant: Grant | None = None
        self._ended: Ended | None = None
        self._done = False
        self._result = b""
        self._failure = ""
        self._timers: list[Timer] = []
        self._renewal: asyncio.Task[Grant] | None = None
        self._body: asyncio.Task[Any] | None = None
        self._interrupt: Callable[[], object] | None = None
        self._cancelled_by_us = False
        self._outer_cancels = 0
        self._current: Token[Step | None] | None = None
        self._span: StepSpan | None = None

    def __repr__(self) -> str:
        """Tool and id; never the token or an argument."""
        return f"<Step {self._intent.tool} {self._intent.step_id}>"

    @property
    def id(self) -> str:
        """The step's id, a ULID."""
        return self._intent.step_id

    @property
    def tool(self) -> str:
        """The tool `server.name`."""
        return self._intent.tool

    @property
    def grant(self) -> Grant:
        """The newest grant.

        Raises:
            Revoked: the step has ended against the program's will.
            MisuseError: the step was not entered, or is over.
        """
        if self._ended is not None:
            raise self._revoked(self._ended)
        if self._grant is None or self._done:
            raise MisuseError(
                f"step {self._intent.tool} is {'over' if self._done else 'not entered'}: use it inside `async with`"
            )
        return self._grant

    @property
    def live(self) -> bool:
        """True while the body may act under the grant."""
        return self._grant is not None and not self._done and self._ended is None

    def result(self, value: object) -> None:
        """Has the digest of `value` reported with the outcome: SHA-256 over JCS. The value itself is not sent.

        Raises:
            ArgumentsInvalidError: strict JSON cannot carry it.
        """
        self._result = digest(from_python(value))

    def failed(self, error_class: str) -> None:
        """Has the step reported as failed although its body comes out without an exception."""
        self._failure = error_class

    async def renew(self) -> Grant:
        """A fresh grant by a fresh decision; the old one is dead from then on. Joins a renewal that is under way.

        Raises:
            Denied: the gateway said no. Whether the old grant lives on is the gateway's word: it pushes its end.
        """
        _ = self.grant  # Raises when there is nothing to renew.
        if self._renewal is None:
            self._renewal = self._lease.background(self._renew())
        return await asyncio.shield(self._renewal)

    async def hand_off(self, to: str, envelope: Bounds, *, purpose: str = "") -> HandOff:
        """What lets the workload `to` (a SPIFFE ID) open a branch of the task below this step, once, while the step is live.

        To be handed to it, as it is or as its `slip()`; the branch ends with the step. `envelope` is what may be done there,
        within what the step's own children may do: per tool and argument `"any"`, or one of `{"exact": value}`,
        `{"one_of": [...]}`, `{"at_most": number}`, `{"prefix": text}`, `{"subset_of": [...]}`. What is not named is refused.

        Raises:
            Denied: the gateway does not let it be handed on, or not so, or not to that workload.
            Revoked, GatewayUnavailableError, TaskClosedError: it cannot be handed on any more.
            MisuseError: the step is over or not entered, no SPIFFE ID, no envelope, or a purpose beyond MAX_PURPOSE characters.
        """
        _ = self.grant  # Raises when there is nothing to hand on.
        answer = await self._lease.hand_off(handing_on(self.id, to, envelope, purpose))
        if isinstance(answer, Denial):
            raise Denied(answer, what=f"handing on step {self._intent.tool}")
        task_type, words = self._opening.task_type, self._opening.parameters_json
        parameters = parse_object(words, max_bytes=MAX_PARAMETERS_BYTES, what="parameters")
        return HandOff(answer.hand_off_id, task_type, parameters, purpose, answer.ticket)

    async def newer(self, grant: Grant) -> Grant | None:
        """The grant that took the place of `grant`, awaited if its renewal is under way; None if there is none.

        For calls that were refused: a renewal kills the old grant, also one that is on its way to a resource.
        """
        if self._renewal is not None:
            with suppress(StepgrantError):
                await asyncio.shield(self._renewal)
        return self._grant if self.live and self._grant is not grant else None

    async def __aenter__(self) -> Self:
        """Declares, and holds the grant."""
        await self.begin()
        self._body = asyncio.current_task()
        if self._body is not None:
            self._outer_cancels = self._body.cancelling()
        self.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Reports how the body came out, also when it was cancelled."""
        self.leave()
        ours = self._uncancel()
        body, self._body = self._body, None
        revoked = self._ended
        await self.finish(error)
        if body is not None and body.cancelling() > self._outer_cancels:
            return  # Somebody else cancels as well, and is first.
        if revoked is not None and (error is None or (ours and isinstance(error, _THROWN))):
            raise self._revoked(revoked) from error

    def enter(self) -> None:
        """What is called from here on, in this context, is under the step: calls, child steps and spans."""
        self._current = CURRENT_STEP.set(self)
        if self._span is not None:
            self._span.enter()

    def leave(self) -> None:
        """Takes `enter` back."""
        if self._current is not None:
            leave(CURRENT_STEP, self._current)
        if self._span is not None:
            self._span.leave()

    async def begin(self) -> None:
        """Declares and holds the grant; what `async with` does before the body. For `finish` to undo."""
        if self._grant is not None:
            raise MisuseError(f"step {self._intent.tool} was entered before: declare a new one for each call")
        if asyncio.get_running_loop() is not self.holder.loop:
            raise MisuseError(
                f"{self._intent.tool} was called on another event loop than the one that its task was opened on: "
                "open the task inside the `asyncio.run` that calls it"
            )
        self._span = StepSpan(self._intent.tool, self._intent.step_id)
        try:
            answer, self.holder = await self._lease.declare(self._intent)
            if isinstance(answer, Denial):
                raise Denied(answer, what=f"step {self._intent.tool}")
        except BaseException as error:
            self._span.end(error.denial.code.value if isinstance(error, Denied) else type(error).__name__)
            raise
        end = self._lease.ended(self._intent.step_id)
        if end.done():
            revoked = self._revoked(end.result())
            self._ended = end.result()
            await self.finish(revoked)
            raise revoked
        self._hold(answer)
        end.add_done_callback(self._on_ended)

    async def finish(self, error: BaseException | None) -> None:
        """Reports the outcome and lets go of the grant, even if the caller is cancelled meanwhile.

        Raises:
            Revoked: the body came out well, but the stream was gone before that could be said.
        """
        self._done = True
        self._stop_timers()
        failure = self._failure if error is None else type(error).__name__
        report = self._lease.background(
            self._lease.report(
                self._intent.step_id,
                failed=bool(failure),
                result_sha256=b"" if failure else self._result,
                error_class=failure,
            )
        )
        if self._span is not None:
            self._span.end(failure if self._ended is None else self._ended.code)
        try:
            await asyncio.shield(report)
        except StepgrantError as lost:
            if error is None and self._ended is None:
                raise Revoked(
                    step_id=self._intent.step_id,
                    state="abandoned",
                    cause=lost.code,
                    reason=f"the body came out well, but that could not be reported: {lost}",
                ) from lost
            _log.warning("The outcome of a step that had ended was not reported: %s", lost)

    def interrupts(self, work: Callable[[], object]) -> None:
        """Has `work` called when the step ends against the program's will: for what runs under it and is no body."""
        self._interrupt = work
        if self._ended is not None:
            work()

    def refuse_ended(self) -> None:
        """Raises Revoked when the step has ended against the program's will."""
        if self._ended is not None:
            raise self._revoked(self._ended)

    def _hold(self, grant: Grant) -> None:
        if self._done:
            return  # A renewal that was under way when the body ended.
        self._grant = grant
        self._stop_timers()
        now = self._clock.monotonic()
        self._timers.append(self._clock.call_at(now + grant.life + LEEWAY, self._expire))
        if self._renews:
            self._timers.append(self._clock.call_at(now + grant.life * RENEW_AT, self._renew_soon))

    async def _renew(self) -> Grant:
        try:
            answer = await self._lease.renew(self._intent.step_id)
            if isinstance(answer, Denial):
                raise Denied(answer, what=f"renewing step {self._intent.tool}")
            self._hold(answer)
            return answer
        finally:
            self._renewal = None

    def _renew_soon(self) -> None:
        if not self._done and self._ended is None:
            self._lease.background(self._renew_quietly())

    async def _renew_quietly(self) -> None:
        try:
            await self.renew()
        except StepgrantError as error:
            # The old grant runs out or the gateway revokes it; either way the gateway says so, and the body hears it.
            _log.info("Step %s was not renewed: %s", self._intent.step_id, error.code)
            if isinstance(error, Denied) and error.denial.code in _PASSING and self.live:
                wait = max(error.denial.retry_after or RENEW_AGAIN, RENEW_AGAIN)
                self._timers.append(self._clock.call_at(self._clock.monotonic() + wait, self._renew_soon))

    def _expire(self) -> None:
        """The gateway should have said so LEEWAY ago: without its word the grant is dead all the same."""
        self._end(Ended(self._intent.step_id, "expired", "expired", "The grant ran out."))

    def _on_ended(self, end: asyncio.Future[Ended]) -> None:
        if not end.cancelled():
            self._end(end.result())

    def _end(self, end: Ended) -> None:
        if self._done or self._ended is not None:
            return
        self._ended = end
        self._stop_timers()
        self._cancel_body()
        if self._interrupt is not None:
            self._interrupt()

    def _cancel_body(self) -> None:
        if self._body is not None and not self._cancelled_by_us:
            self._cancelled_by_us = True
            self._body.cancel()

    def _uncancel(self) -> bool:
        if self._cancelled_by_us and self._body is not None:
            self._body.uncancel()
        return self._cancelled_by_us

    def _stop_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _revoked(self, end: Ended) -> Revoked:
        return Revoked(step_id=self._intent.step_id, state=end.state, cause=end.code, reason=end.reason)


def leave(variable: ContextVar[_T], token: Token[_T]) -> None:
    """Takes back what was set on entry. Left in another context, as some frameworks leave their fixtures, it is not set."""
    with suppress(ValueError):
        variable.reset(token)
