"""One stream of one agent: one task, and the lease on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeVar

from grpc.aio import EOF  # type: ignore[attr-defined]  # the stubs forget it

from stepgrant._wire_strict import refuse_unknown
from stepgrant.errors import ArgumentsInvalidError, Denial, DenialCode, ProtocolError, StepgrantError, TaskClosedError
from stepgrant.grant import PROTOCOL_REVISION
from stepgrant.v1 import agent_pb2
from stepgrant_gateway.core.boundary import HandedOff, Pushed, StepGranted, TaskClosed
from stepgrant_gateway.core.errors import GatewayError
from stepgrant_gateway.core.ports import Clock, Timer
from stepgrant_gateway.rpc import wire
from stepgrant_gateway.rpc.caller import Caller
from stepgrant_gateway.rpc.leases import Answer, Lease, TaskOpener
from stepgrant_gateway.rpc.limits import (
    MAX_TEXT,
    MAX_WAITING,
    OPEN_WITHIN,
    RETRY_AFTER,
    STANDS_BACK,
)
from stepgrant_gateway.rpc.opening import Speaker, opening_of
from stepgrant_gateway.rpc.outbox import Outbox
from stepgrant_gateway.rpc.status import OpenLateError
from stepgrant_gateway.rpc.turns import Turns

STREAM_LOST: Final = "stream_lost"
"""The code that an ended stream lets go of its task with: for a moment, another may take it up."""
STREAM_BROKEN: Final = "stream_broken"
"""The code that a stream ends its task with when the gateway ends it on an error."""
TAKEN_OVER: Final = "taken_over"
"""The code that the stream is closed with when its task lives on another one."""

Read = Callable[[], Awaitable[Any]]
"""The next AgentMessage, or `grpc.aio.EOF`."""

Asked = TypeVar("Asked")
Decided = StepGranted | HandedOff | Denial

Patience = Callable[[], timedelta | None]
"""None if this workload may declare or renew a step now, which counts; else how long it has to wait."""


class TaskStream:
    """Reads the agent's messages in order, lets the application handle them at once, and queues the answers."""

    def __init__(
        self,
        caller: Caller,
        tasks: TaskOpener,
        speaker: Speaker,
        clock: Clock,
        nonce: bytes,
        patience: Patience,
        turns: Turns,
    ) -> None:
        self.outbox = Outbox(lambda: self.end(STREAM_BROKEN, "the gateway ended the stream on an error"))
        self._caller = caller
        self._tasks = tasks
        self._speaker = speaker
        self._clock = clock
        self._nonce = nonce
        self._patience = patience
        self._turns = turns
        self.opening = False
        self._lease: Lease | None = None
        self._over: tuple[str, str] | None = None
        self._late: Timer | None = None
        self._waiting = 0
        self._when_answered: Callable[[], None] | None = None
        self._closing = False
        self._wait_until: timedelta | None = None

    def greet(self) -> None:
        """Says the challenge, and starts the time that the agent has for its answer."""
        challenge = agent_pb2.Challenge(
            nonce=self._nonce, gateway_id=self._speaker.gateway_id, revision=PROTOCOL_REVISION
        )
        self.outbox.put(agent_pb2.GatewayMessage(challenge=challenge))
        late = OpenLateError(f"no Open within {OPEN_WITHIN.total_seconds():.0f} s of the Challenge")
        self._late = self._clock.call_at(self._clock.monotonic() + OPEN_WITHIN, lambda: self.outbox.fail(late))

    async def listen(self, read: Read) -> None:
        """Everything the agent says, until it says no more. Never raises: an error ends the outbox."""
        try:
            if await self._open(read):
                await self._serve(read)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must end the stream and the lease
            self.outbox.fail(error)
            self.break_off(error)
        finally:
            self._no_longer_late()

    def lose(self, code: str, reason: str) -> None:
        """The stream must end now, and the agent is told why."""
        self.end(code, reason)
        self.outbox.finish(agent_pb2.GatewayMessage(closed=agent_pb2.Closed(code=code, reason=reason[:MAX_TEXT])))

    def end(self, code: str, reason: str) -> None:
        """Ends the lease at once; harmless twice. A task that is being opened ends as soon as it is open."""
        self._no_longer_late()
        if self._over is None:
            self._over = (code, reason)
        elif self._over[0] != TAKEN_OVER:
            return
        if self._lease is not None:
            self._lease.lost(code, reason)

    def break_off(self, error: Exception) -> None:
        """Ends the lease on an error: for good on one of ours, and as lost when the connection failed."""
        code = STREAM_BROKEN if isinstance(error, StepgrantError | GatewayError) else STREAM_LOST
        self.end(code, "the gateway ended the stream on an error")

    def leave(self, end_watch: Callable[[], None]) -> None:
        """The stream is over. The watch over its SVID is not, while steps live that were granted to it."""
        if self._lease is None:
            end_watch()
        else:
            self._lease.when_released(end_watch)

    async def _open(self, read: Read) -> bool:
        message = await read()
        self._no_longer_late()
        if message is EOF:
            self.outbox.finish()
            return False
        _expect(message, 1)
        if message.WhichOneof("message") != "open":
            raise ProtocolError("the first message must be Open")
        try:
            request = opening_of(message.open, self._caller.peer, self._speaker, self._nonce)
        except ArgumentsInvalidError as error:
            self._last(agent_pb2.GatewayMessage(reply_to=1, denied=wire.denied(_invalid(error))))
            return False
        self.opening = True
        try:
            lease = await self._tasks.open(self._caller.peer, request, self._push)
        finally:
            self.opening = False
        if isinstance(lease, Denial):
            self._last(agent_pb2.GatewayMessage(reply_to=1, denied=wire.denied(lease)))
            return False
        self._lease = lease
        if self._over is not None:
            lease.lost(*self._over)
            return False
        opened = wire.opened(lease.opened, lease.resume_token(), self._speaker.instance_id, self._speaker.limits)
        self.outbox.put(agent_pb2.GatewayMessage(reply_to=1, opened=opened))
        return True

    async def _serve(self, read: Read) -> None:
        expected = 2
        while not self.outbox.ended:
            message = await read()
            if message is EOF:
                self.end(STREAM_LOST, "the agent's stream ended")
                self.outbox.finish()
                return
            if self._over is not None:
                return  # The task is over, or on another stream: what still comes here is not acted upon.
            _expect(message, expected)
            if message.WhichOneof("message") == "close":
                self._close(expected, message.close)
                return
            wait = self._start(expected, message)
            if wait is not None:
                await self._stand_back(wait)
            expected += 1

    def _start(self, number: int, message: agent_pb2.AgentMessage) -> timedelta | None:
        """Lets a request be handled while the next ones are read: a Declare that waits for the disk blocks no Report.

        The time that this workload was told to wait, if it was put off: it asks too often.
        """
        lease = self._leased()
        match message.WhichOneof("message"):
            case "declare":
                return self._ask(number, message.declare, wire.declare_of, lease.declare)
            case "renew":
                return self._ask(number, message.renew, wire.renew_of, lease.renew)
            case "hand_off":
                return self._ask(number, message.hand_off, wire.hand_off_of, lease.hand_off)
            case "report":
                self._report(lease, number, message.report)
                return None
            case _:
                raise ProtocolError("a stream opens one task, and it is open")

    async def _stand_back(self, wait: timedelta) -> None:
        """Whoever asks again and again is not read before it may: to be refused costs the others something, too."""
        now, waited = self._clock.monotonic(), self._wait_until
        self._wait_until = now + wait
        if waited is None or now >= waited + wait:
            return  # It is told for the first time, or has waited for longer than it had to.
        passed = asyncio.Event()
        timer = self._clock.call_at(now + min(wait, STANDS_BACK), passed.set)
        try:
            await passed.wait()
        finally:
            timer.cancel()

    def _ask(
        self, number: int, message: Any, read: Callable[[Any], Asked], decide: Callable[[Asked], Answer[Decided]]
    ) -> timedelta | None:
        """Decided here and now, if it is this workload's turn: only the answer waits for the ledger."""
        wait = self._too_often(number, message.step_id)
        if wait is not None:
            return wait
        try:
            request = read(message)
        except ArgumentsInvalidError as error:
            self._answer(number, _invalid(error, message.step_id))
            return None
        busy = self._busy(message.step_id)
        if busy is not None:
            self._answer(number, busy)
        else:
            self._decide(number, partial(decide, request))
        return None

    def _decide(self, number: int, decide: Callable[[], Answer[Decided]]) -> None:
        self._waiting += 1
        turn = self._turns.begin(self._caller.id)
        if turn is None:
            self._begin(number, decide)
        else:
            turn.add_done_callback(lambda _: self._begin(number, decide))

    def _begin(self, number: int, decide: Callable[[], Answer[Decided]]) -> None:
        try:
            answer = decide()
        except Exception as error:  # noqa: BLE001 - as in listen
            self._conclude(error)
        else:
            answer.add_done_callback(partial(self._decided, number))

    def _decided(self, number: int, answer: Answer[Decided]) -> None:
        try:
            self._answer(number, answer.result())
        except Exception as error:  # noqa: BLE001 - as in listen
            self._conclude(error)
        else:
            self._conclude(None)

    def _conclude(self, error: Exception | None) -> None:
        self._turns.leave(self._caller.id)
        # It may have come too late, when nothing is decided any more. What others here were told is still on its way.
        if error is not None and not (isinstance(error, TaskClosedError) and self._over is not None):
            self.outbox.fail(error)
            self.break_off(error)
        self._waiting -= 1
        if not self._waiting and self._when_answered is not None:
            self._when_answered()

    def _report(self, lease: Lease, number: int, message: agent_pb2.Report) -> None:
        settled = lease.report(wire.report_of(message))
        self.outbox.put(agent_pb2.GatewayMessage(reply_to=number, settled=wire.settled(settled)))

    def _close(self, number: int, message: agent_pb2.Close) -> None:
        self._closing = True
        closed = self._leased().close(wire.outcome_field(message.outcome, "Close.outcome"))
        self._over = self._over or ("closed", "")
        self._last_of_all(agent_pb2.GatewayMessage(reply_to=number, closed=wire.closed(closed)))

    def _answer(self, number: int, answer: Decided) -> None:
        if isinstance(answer, Denial):
            self.outbox.put(agent_pb2.GatewayMessage(reply_to=number, denied=wire.denied(answer)))
        elif isinstance(answer, HandedOff):
            self.outbox.put(agent_pb2.GatewayMessage(reply_to=number, handed_off=wire.handed_off(answer)))
        else:
            self.outbox.put(agent_pb2.GatewayMessage(reply_to=number, granted=wire.granted(answer)))

    def _push(self, value: Pushed) -> None:
        """The application ended a step, or the task: the latter is the last that the stream says."""
        message = wire.pushed(value)
        if isinstance(value, TaskClosed):
            if self._closing:
                return  # The agent asked for it and gets an answer, not a push.
            self._over = self._over or (value.code, value.reason)
            if value.code == TAKEN_OVER:
                self._last_of_all(message)
            else:
                self._last(message)
        else:
            self.outbox.put(message)

    def _last(self, message: agent_pb2.GatewayMessage) -> None:
        self.outbox.finish(message)

    def _last_of_all(self, message: agent_pb2.GatewayMessage) -> None:
        """What was asked here is answered here, and then the stream closes."""
        if self._waiting:
            self._when_answered = partial(self._last, message)
        else:
            self._last(message)

    def _too_often(self, number: int, step_id: str) -> timedelta | None:
        """How long it has to wait, and answered, if this workload declares faster than it may: nobody looks what it asks."""
        wait = self._patience()
        if wait is None:
            return None
        step_id = wire.ulid_field(step_id, "step_id")
        reason = "this workload declares and renews faster than it may"
        denial = Denial(DenialCode.OVERLOADED, reason, "wait, then ask again", step_id=step_id, retry_after=wait)
        self._answer(number, denial)
        return wait

    def _busy(self, step_id: str) -> Denial | None:
        if self._waiting < MAX_WAITING:
            return None
        reason = f"more than {MAX_WAITING} requests of this task wait for an answer"
        return Denial(
            DenialCode.OVERLOADED, reason, "wait for answers, then ask again", step_id=step_id, retry_after=RETRY_AFTER
        )

    def _leased(self) -> Lease:
        if self._lease is None:
            raise ProtocolError("no task is open on this stream")
        return self._lease

    def _no_longer_late(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def _expect(message: agent_pb2.AgentMessage, number: int) -> None:
    refuse_unknown(message)
    if message.request != number:
        raise ProtocolError(f"request {message.request} came where {number} must: requests are numbered without a gap")


def _invalid(error: ArgumentsInvalidError, step_id: str = "") -> Denial:
    return Denial(DenialCode.ARGUMENTS_INVALID, error.reason, error.fix, argument=error.argument, step_id=step_id)
