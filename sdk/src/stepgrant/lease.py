"""The lease on a task: its verbs, on whichever stream has the task now. It moves when the identity does, and after a loss."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from stepgrant._wire import close_message, report_message
from stepgrant.answers import Closed, Grant, HandedOff, Opened, Settled
from stepgrant.clock import Clock, Timer
from stepgrant.errors import (
    Denial,
    DenialCode,
    Denied,
    GatewayUnavailableError,
    NobodyListensError,
    StepgrantError,
    TaskClosedError,
)
from stepgrant.gate import Gate
from stepgrant.holding import Hold, Holder, OpenStream, StepIntent
from stepgrant.looks import Looks
from stepgrant.patience import Patience
from stepgrant.pauses import GIVE_UP, LINGER, TRY_TO_MOVE, TRY_TO_TAKE_UP, Pauses
from stepgrant.session import Ends, Session, again, ending, given_up
from stepgrant.v1 import agent_pb2

if TYPE_CHECKING:
    from stepgrant.answers import Ended

TAKEN_OVER: Final = "taken_over"
"""The code that the gateway closes a stream with when another one has its task."""
CLOSED: Final = "the task is over; open a new one"
NOT_PROVEN: Final = "the gateway's certificate, by which it was proven, does not verify any more"
LAST_WORDS: Final = timedelta(seconds=5)
"""How long the end of a stream is awaited that was taken over, so that what it says of steps is heard, or closed."""

_log = logging.getLogger(__name__)


class Lease:
    """One open task. Made by `open_lease`; all methods belong to the loop that it was opened on.

    With a newer identity the task moves to a stream of its own accord; steps that are live stay with the identity that they
    were granted to. It moves as well when the gateway is not proven any more at the other end of its stream, of which nothing is
    asked from then on. When a stream is lost its steps have ended, and the task is taken up on another one if the gateway
    still has it; steps that are declared meanwhile wait for that, at most `GIVE_UP`.
    """

    def __init__(self, hold: Hold, ends: Ends, open_stream: OpenStream, clock: Clock) -> None:
        self._hold = hold
        self._ends = ends
        self._open_stream = open_stream
        self._clock = clock
        self._over: StepgrantError | None = None
        self._lost: StepgrantError | None = None
        self._lost_at = timedelta(0)
        self._gate = Gate()
        self._mover: asyncio.Task[None] | None = None
        self._asked_over = self._asked_to_move = False
        self._giving_up: Timer | None = None
        self._looks = Looks(clock, self.look_for_identity)
        self._pauses = Pauses(clock)
        self._background: set[asyncio.Task[Any]] = set()
        self._settle()
        self.look_for_identity()

    @property
    def over(self) -> StepgrantError | None:
        """Why the task is over; None while it is open, also while it is being taken up again."""
        return self._over

    @property
    def opened(self) -> Opened:
        """What the gateway said when the task came to the stream that it is on."""
        return self._hold.opened

    @property
    def holder(self) -> Holder:
        """What a grant that is declared now will be bound to."""
        return self._hold.holder

    def ended(self, step_id: str) -> asyncio.Future[Ended]:
        """Done when the step ended against the agent's will, the stream's end included."""
        return self._ends.of(step_id)

    async def declare(self, intent: StepIntent) -> tuple[Grant | Denial, Holder]:
        """The grant and what it is bound to, or the denial. A grant that comes after the caller was cancelled is reported
        as failed.

        Raises:
            GatewayUnavailableError, TaskClosedError: there is no answer; nothing may be done.
            ProtocolError: the gateway's answer breaks the protocol; the stream is closed.
        """
        if self._over is not None:
            raise again(self._over)
        asking = self.background(self._ask_patiently("declare", intent.declaration(), intent.step_id))
        try:
            answer, holder = await asyncio.shield(asking)
        except asyncio.CancelledError:
            self.background(self._give_back(asking, intent.step_id))
            raise
        except BaseException:
            self._ends.forget(intent.step_id)
            raise
        return answer, holder

    async def renew(self, step_id: str) -> Grant | Denial:
        """A fresh grant of the same step, or the denial; errors as `declare`."""
        renewing = self._ask_patiently("renew", agent_pb2.Renew(step_id=step_id), step_id)
        answer: Grant | Denial
        answer, _ = await asyncio.shield(self.background(renewing))
        return answer

    async def hand_off(self, message: agent_pb2.HandOff) -> HandedOff | Denial:
        """The offer, or the denial; errors as `declare`. One of which nobody hears dies with its step."""
        asking = self._ask_patiently("hand_off", message, message.step_id, HandedOff)
        answer: HandedOff | Denial
        answer, _ = await asyncio.shield(self.background(asking))
        return answer

    async def report(self, step_id: str, *, failed: bool, result_sha256: bytes = b"", error_class: str = "") -> Settled:
        """Says how the step came out; errors as `declare`. From here on its end is nobody's surprise."""
        message = report_message(step_id=step_id, failed=failed, result_sha256=result_sha256, error_class=error_class)
        try:
            if self._lost is not None and self._ends.have(step_id):
                raise again(self._lost)  # It has ended with its stream, and nobody has to wait to hear that.
            settled: Settled
            settled, _ = await self._ask("report", message, step_id, (Settled,))
        finally:
            self._ends.forget(step_id)
        return settled

    async def close(self, *, failed: bool) -> None:
        """Ends the task and the stream, whatever state they are in. Never raises but when cancelled."""
        try:
            while self._background:
                await asyncio.wait(self._background)
            if self._over is None and self._lost is None:
                await self._ask("close", close_message(failed=failed), "", (Closed,))
                self._finish(TaskClosedError(CLOSED))
                # A call that is cancelled before its status comes leaves some bytes at the gateway for good (grpc issue 43360).
                await self._hold.session.gone(LAST_WORDS)
        except StepgrantError as error:
            _log.warning("The task was not closed in order, its stream ends all the same: %s", error)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Ends the stream at once, and with it all that lives on it."""
        self._finish(TaskClosedError(CLOSED))
        self._stop_moving()
        self._hold.session.abandon()
        self._hold.release()

    def background(self, work: Any) -> asyncio.Task[Any]:
        """A task that goes on when whoever asked for it is cancelled; `close` waits for it."""
        task: asyncio.Task[Any] = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background_done)
        return task

    def look_for_identity(self) -> None:
        """Moves the task if its stream is not the one for it any more. For whoever hears of a change."""
        if self._over is not None or not self._outdated():
            return
        if self._gate.is_open and not self._hold.vouched_for():
            self._gate.shut()
            self._pauses.begin_anew()
        self._move_soon()

    async def _ask_patiently(
        self, kind: str, message: Any, step_id: str, hoped: type[Any] = Grant
    ) -> tuple[Any, Holder]:
        """Asks for what is hoped for, again when the gateway says that it has too much to do and when to come back."""
        patience = Patience()
        while True:
            answer, holder = await self._ask(kind, message, step_id, (hoped, Denial))
            if not isinstance(answer, Denial) or not await patience.waits(answer):
                return answer, holder

    async def _ask(self, kind: str, message: Any, step_id: str, kinds: tuple[type[Any], ...]) -> tuple[Any, Holder]:
        """The answer, and whose it is; asked on one stream from beginning to end."""
        async with self._gate.passage():
            if self._over is not None:
                raise again(self._over)
            hold = self._hold
            if kind == "declare":
                self._ends.expect(step_id)
            answer = await hold.session.ask(kind, message, step_id, kinds)
            if kind == "declare" and isinstance(answer, Denial):
                self._ends.forget(step_id)  # Also while it waits to be asked again: there is no step that could end.
            return answer, hold.holder

    async def _give_back(self, asking: asyncio.Task[Any], step_id: str) -> None:
        try:
            answer, _ = await asking
            if isinstance(answer, Grant):
                await self.report(step_id, failed=True, error_class="CancelledError")
        except StepgrantError as error:
            _log.warning("A cancelled step ends with its stream: %s", error)
        finally:
            self._ends.forget(step_id)

    def _settle(self) -> None:
        """On a stream: what it is told, and when its identity is looked after."""
        self._looks.begin(self._hold.holder.identity.not_after, self._hold.session.subject_ends)
        self._hold.session.when_over(self._stream_over)

    def _outdated(self) -> bool:
        return self._looks.subject_due or self._hold.outdated()

    def _stream_over(self, session: Session) -> None:
        """Called by a session as it ends: the one that has the task, or one that had it."""
        error = session.over
        if session is not self._hold.session or self._over is not None or error is None:
            return
        if session.closed_as == TAKEN_OVER and self._asked_over:
            return  # By ourselves: the answer is on its way on the other stream, and what is live lives on.
        self._ends.abandon(self._ends.awaited(), error)
        if session.closed_as or not isinstance(error, GatewayUnavailableError):
            self._finish(ending(error, self.opened))
            return
        self._lost, self._lost_at = error, self._clock.monotonic()
        self._giving_up = self._clock.call_at(self._lost_at + GIVE_UP, self._stop_moving)
        self._gate.shut()
        self._pauses.begin_anew()
        self._move_soon()

    def _move_soon(self) -> None:
        self._asked_to_move = True
        if self._mover is None:
            self._mover = asyncio.ensure_future(self._move())
            self._mover.add_done_callback(self._moved)

    def _moved(self, mover: asyncio.Task[None]) -> None:
        self._mover = None
        if not mover.cancelled() and (error := mover.exception()) is not None:
            _log.error("A task could not be moved to another stream, and ends.", exc_info=error)
            self._finish(GatewayUnavailableError("the task could not be moved to another stream"))
        elif self._lost is not None:
            if mover.cancelled():
                self._finish(given_up(self._lost, self.opened, "nobody answered in time"))
            else:
                self._move_soon()  # It was lost while the mover was on its way out.
        elif self._asked_to_move:
            self.look_for_identity()  # So was this.

    def _stop_moving(self) -> None:
        if self._mover is not None:
            self._mover.cancel()

    async def _move(self) -> None:
        """Until the task is on a live stream with the newest identity, or nothing can be done for it."""
        while self._over is None and (self._lost is not None or self._outdated()):
            self._asked_to_move = False
            try:
                await self._switch()
                self._pauses.begin_anew()
                continue
            except StepgrantError as error:
                failure = error
            hopeless = isinstance(failure, Denied) and failure.denial.code is DenialCode.RESUME_REFUSED
            if self._lost is not None:
                late = self._clock.monotonic() - self._lost_at >= LINGER
                if hopeless or late or isinstance(failure, NobodyListensError | TaskClosedError):
                    self._finish(given_up(self._lost, self.opened, failure))
                    return
            elif hopeless and not self._hold.vouched_for():
                self._finish(given_up(GatewayUnavailableError(NOT_PROVEN), self.opened, failure))
                return
            elif hopeless:
                _log.warning("A task stays with its old identity until that ends: %s", failure)
                return
            waited_for = self._lost is not None or not self._hold.vouched_for()
            await self._pauses.next(TRY_TO_TAKE_UP if waited_for else TRY_TO_MOVE)

    async def _switch(self) -> None:
        old = self._hold
        try:
            hold = await self._open_stream(self._ends, self._token)
        except BaseException as error:
            if old.session.closed_as == TAKEN_OVER:
                # The gateway gave the task to a stream that was lost before it could say so.
                self._ends.abandon(self._ends.awaited(), GatewayUnavailableError(str(error)))
                lost = GatewayUnavailableError("the stream was lost as the task moved to it")
                self._finish(given_up(lost, self.opened, error))
            self._open_gate()
            raise
        finally:
            self._asked_over = False
        missing = self._ends.awaited() - hold.opened.live_steps
        self._hold, self._lost = hold, None
        self._stop_timers()
        self._settle()
        self._open_gate()
        self.background(self._retire(old, missing))

    def _open_gate(self) -> None:
        if self._lost is None and self._hold.vouched_for():
            self._gate.open()

    async def _token(self) -> bytes:
        """The resume token, once nothing is asked on the old stream any more, and nothing will be."""
        self._gate.shut()
        await self._gate.empty()
        self._asked_over = True
        return self._hold.opened.resume_token

    async def _retire(self, old: Hold, missing: frozenset[str]) -> None:
        """Hears the last words of a stream that had the task; steps that neither it nor the new one speaks of are over."""
        await old.session.gone(LAST_WORDS)
        self._ends.abandon(missing, GatewayUnavailableError("the step was not live any more when its task moved"))
        old.session.abandon()
        old.release()

    def _finish(self, error: StepgrantError) -> None:
        if self._over is not None:
            return
        self._over, self._lost = error, None
        self._stop_timers()
        self._ends.abandon(self._ends.awaited(), error)
        self._gate.open()

    def _stop_timers(self) -> None:
        self._looks.end()
        if self._giving_up is not None:
            self._giving_up.cancel()

    def _background_done(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled():
            task.exception()  # Retrieved here, so that asyncio does not complain when nobody waits any more.


async def open_lease(open_stream: OpenStream, clock: Clock) -> Lease:
    """A new task on its first stream; raises as `open_stream`."""

    async def none() -> bytes:
        return b""

    ends = Ends()
    return Lease(await open_stream(ends, none), ends, open_stream, clock)
