"""A task's stream: numbered requests, correlated answers, pushed ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc

from stepgrant._status import error_of
from stepgrant._wire import open_message, read_answer
from stepgrant.answers import Answer, Challenge, Closed, Ended, Opened
from stepgrant.errors import Denial, GatewayUnavailableError, ProtocolError, StepgrantError, TaskClosedError
from stepgrant.subject_token import BringToken, brought, end_of
from stepgrant.v1 import agent_pb2

if TYPE_CHECKING:
    StreamCall: TypeAlias = grpc.aio.StreamStreamCall[agent_pb2.AgentMessage, agent_pb2.GatewayMessage]

ANSWER_TIMEOUT: Final = timedelta(seconds=10)
"""Longer than the gateway's own bound on recording, so that its answer, if there is one, is heard."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opening:
    """What a task is opened with. `parameters_json` is canonical JSON (RFC 8785); `ticket` is of its assignment, `hand_off` that
    of the hand-off of which it is a branch. Neither is brought again when the task is taken up.
    """

    task_type: str
    parameters_json: str = field(repr=False)
    purpose: str
    subject_token: str = field(default="", repr=False)
    ticket: bytes = field(default=b"", repr=False)
    hand_off: bytes = field(default=b"", repr=False)
    bring: BringToken | None = field(default=None, repr=False)
    """Who brings the subject's token of now, for the first stream and for each further one."""

    async def of_now(self) -> Opening:
        """The same with the token that the subject has now; raises as `brought`."""
        return self if self.bring is None else replace(self, subject_token=await brought(self.bring))


SignOpen: TypeAlias = Callable[[Challenge], tuple[bytes, bytes]]
"""Instance public key (SubjectPublicKeyInfo, DER) and its signature for this challenge."""
GetToken: TypeAlias = Callable[[], Awaitable[bytes]]
"""The resume token of the task that is to be taken up; empty for a new one."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request that has no answer yet, and what may answer it."""

    future: asyncio.Future[Any]
    step_id: str
    kinds: tuple[type[Any], ...]


class Ends:
    """How steps ended against the agent's will, on whichever stream of their task that was said."""

    def __init__(self) -> None:
        self._open: dict[str, asyncio.Future[Ended]] = {}
        self._past: set[str] = set()

    def expect(self, step_id: str) -> None:
        """The step is declared, so that its end may be said."""
        self._open[step_id] = asyncio.get_running_loop().create_future()

    def of(self, step_id: str) -> asyncio.Future[Ended]:
        """Done when the step has ended against the agent's will, the end of its stream included."""
        return self._open[step_id]

    def have(self, step_id: str) -> bool:
        """True if the step has ended against the agent's will and is not forgotten."""
        return step_id in self._open and self._open[step_id].done()

    def awaited(self) -> frozenset[str]:
        """Steps that were declared and have not ended."""
        return frozenset(step_id for step_id, end in self._open.items() if not end.done())

    def say(self, ended: Ended) -> None:
        """The step has ended; the first word counts.

        Raises:
            ProtocolError: it was never declared.
        """
        end = self._open.get(ended.step_id)
        if end is None and ended.step_id not in self._past:
            raise ProtocolError("the gateway ends a step that was never declared on this stream")
        if end is not None and not end.done():
            end.set_result(ended)

    def abandon(self, step_ids: frozenset[str], error: StepgrantError) -> None:
        """These steps have ended with their stream."""
        for step_id in step_ids & self.awaited():
            self._open[step_id].set_result(Ended(step_id, "abandoned", error.code, str(error)))

    def forget(self, step_id: str) -> None:
        """From here on the step's end is nobody's surprise."""
        if self._open.pop(step_id, None) is not None:
            self._past.add(step_id)


class Session:
    """One open stream. Made by `open_session`; all methods belong to the loop that it was opened on."""

    def __init__(self, call: StreamCall, answer_timeout: timedelta, ends: Ends) -> None:
        self._call = call
        self._timeout = answer_timeout.total_seconds()
        self._ends = ends
        self._number = 0
        self._waiting: dict[int, _Waiting] = {}
        self._outbox: asyncio.Queue[agent_pb2.AgentMessage] = asyncio.Queue()
        self._over: asyncio.Future[StepgrantError] = asyncio.get_running_loop().create_future()
        self._on_over: Callable[[Session], None] | None = None
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]
        self._of_branch = False
        self.subject_ends: datetime | None = None
        """When the subject's token ends that the stream was opened with, if another can be brought by then."""
        self.closed_as = ""
        """The code of the gateway's `Closed`, once it came unasked."""

    @property
    def over(self) -> StepgrantError | None:
        """Why the stream is over; None while it lives."""
        return self._over.result() if self._over.done() else None

    def when_over(self, callback: Callable[[Session], None]) -> None:
        """Has `callback` called when the stream is over, before anybody who waits for an answer hears of it."""
        self._on_over = callback
        if self._over.done():
            callback(self)

    async def gone(self, within: timedelta) -> None:
        """Returns when the stream is over, or after `within`."""
        await asyncio.wait([self._over], timeout=within.total_seconds())

    def abandon(self) -> None:
        """Ends the stream at once."""
        self._finish(TaskClosedError("the task is over; open a new one"))
        for task in self._tasks:
            task.cancel()

    async def open(
        self, opening: Opening, challenge: Challenge, sign: SignOpen, resume_token: bytes
    ) -> Opened | Denial:
        """Answers the challenge; the first request of the stream."""
        instance_key, signature = sign(challenge)
        message = open_message(
            task_type=opening.task_type,
            parameters_json=opening.parameters_json,
            purpose=opening.purpose,
            instance_key=instance_key,
            signature=signature,
            resume_token=resume_token,
            subject_token=opening.subject_token,
            ticket=opening.ticket,
            hand_off=opening.hand_off,
        )
        self.subject_ends = None if opening.bring is None else end_of(opening.subject_token)
        answer: Opened | Denial = await self.ask("open", message, "", (Opened, Denial))
        self._of_branch = isinstance(answer, Opened) and bool(answer.branch_id)
        return answer

    async def ask(self, kind: str, message: Any, step_id: str, kinds: tuple[type[Any], ...]) -> Any:
        """The answer to one request, which is of one of `kinds` and for this step.

        Raises:
            GatewayUnavailableError, TaskClosedError: there is none, and the stream is over.
            ProtocolError: it breaks the protocol, and the stream is over.
        """
        self._refuse_when_over()
        self._number += 1
        number = self._number
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = _Waiting(future, step_id, kinds)
        # By a task of its own: grpc.aio cancels the whole call when a write is cancelled.
        self._outbox.put_nowait(agent_pb2.AgentMessage(request=number, **{kind: message}))
        try:
            async with asyncio.timeout(self._timeout):
                return await future
        except TimeoutError:
            error = GatewayUnavailableError(f"the gateway did not answer within {self._timeout:g} s")
            self._finish(error)
            raise error from None

    async def _write(self) -> None:
        try:
            while True:
                await self._call.write(await self._outbox.get())
        except (grpc.RpcError, asyncio.InvalidStateError):
            _log.debug("The stream takes no more messages; the reader says why.")

    async def _read(self) -> None:
        try:
            while True:
                message = await self._call.read()
                if not isinstance(message, agent_pb2.GatewayMessage):
                    self._finish(error_of(await self._call.code(), await self._call.details()))
                    return
                self._take(*read_answer(message))
        except ProtocolError as error:
            self._finish(error)
        except grpc.aio.AioRpcError as error:
            self._finish(error_of(error.code(), error.details()))
        finally:
            self._finish(GatewayUnavailableError("the stream to the gateway was cut"))

    def _take(self, number: int, answer: Answer) -> None:
        if number == 0:
            self._pushed(answer)
            return
        waiting = self._waiting.pop(number, None)
        if waiting is None:
            raise ProtocolError(f"the gateway answers request {number}, which is not waiting for an answer")
        if not isinstance(answer, waiting.kinds):
            error = ProtocolError(f"the gateway answers request {number} with a {type(answer).__name__}")
        elif getattr(answer, "step_id", "") != waiting.step_id:
            error = ProtocolError(f"the gateway answers request {number} for another step")
        else:
            if not waiting.future.done():
                waiting.future.set_result(answer)
            return
        if not waiting.future.done():
            waiting.future.set_exception(error)
        raise error

    def _pushed(self, answer: Answer) -> None:
        if isinstance(answer, Closed):
            self.closed_as = answer.code
            what, then = ("branch", "Have the step handed on anew") if self._of_branch else ("task", "Open a new one")
            reason = f"the gateway closed the {what} ({answer.code}): {answer.reason.rstrip('.')}. {then}."
            self._finish(TaskClosedError(reason))
        elif isinstance(answer, Ended):
            self._ends.say(answer)
        else:
            raise ProtocolError(f"the gateway pushed a {type(answer).__name__}")

    def _finish(self, error: StepgrantError) -> None:
        if self._over.done():
            return
        self._over.set_result(error)
        if self._on_over is not None:
            self._on_over(self)
        for waiting in self._waiting.values():
            if not waiting.future.done():
                waiting.future.set_exception(again(error))
        self._waiting.clear()
        self._call.cancel()

    def _refuse_when_over(self) -> None:
        if self._over.done():
            raise again(self._over.result())


async def open_session(
    call: StreamCall,
    gateway_id: str,
    opening: Opening,
    sign: SignOpen,
    *,
    ends: Ends,
    resume_token: GetToken,
    answer_timeout: timedelta = ANSWER_TIMEOUT,
) -> tuple[Session, Opened] | Denial:
    """Opens the task on a fresh stream, or takes one up; `gateway_id` is whom the connection was authenticated for.

    `resume_token` is asked when the gateway has spoken, and not before: until then an old stream is not in the way.

    Raises:
        GatewayUnavailableError, IdentityUnavailableError: the stream could not be had.
        ProtocolError: the gateway's words break the protocol, or name another gateway.
    """
    try:
        challenge = await _challenge(call, answer_timeout)
        if challenge.gateway_id != gateway_id:
            raise ProtocolError("the gateway's challenge names another gateway than the one that was authenticated")
        token = await resume_token()
    except BaseException:
        call.cancel()
        raise
    session = Session(call, answer_timeout, ends)
    try:
        answer = await session.open(opening, challenge, sign, token)
    except BaseException:
        session.abandon()
        raise
    if isinstance(answer, Denial):
        session.abandon()
        return answer
    return session, answer


async def _challenge(call: StreamCall, answer_timeout: timedelta) -> Challenge:
    try:
        async with asyncio.timeout(answer_timeout.total_seconds()):
            message = await call.read()
            if not isinstance(message, agent_pb2.GatewayMessage):
                raise error_of(await call.code(), await call.details(), await call.trailing_metadata() or ())
    except TimeoutError:
        raise GatewayUnavailableError(
            f"the gateway did not speak within {answer_timeout.total_seconds():g} s; check that it runs"
        ) from None
    except grpc.aio.AioRpcError as error:
        raise error_of(error.code(), error.details(), error.trailing_metadata() or ()) from error
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
        # Nobody has cancelled who waits here: the connection was closed under the call.
        raise GatewayUnavailableError("the connection to the gateway was closed before it spoke") from None
    number, answer = read_answer(message)
    if number != 0 or not isinstance(answer, Challenge):
        raise ProtocolError("the gateway's first word is not a challenge")
    return answer


def again(error: StepgrantError) -> StepgrantError:
    """The same error anew, so that no two raisers share a traceback."""
    return type(error)(*error.args)


def ending(error: StepgrantError, opened: Opened) -> StepgrantError:
    """The same error, of which no further try in this task can be rid."""
    return error if isinstance(error, TaskClosedError) else type(error)(f"{error}; {opened.afterwards}")


def given_up(lost: StepgrantError, opened: Opened, failure: object) -> StepgrantError:
    """What a stream was lost by, and why the task could not be taken up on another."""
    return type(lost)(f"{lost}; {opened.afterwards} (it could not be taken up: {failure})")
