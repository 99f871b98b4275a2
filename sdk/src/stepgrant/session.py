"""A task's stream: numbered requests, correlated answers, pushed ends. When it is over, every step of it is dead."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc

from stepgrant._status import error_of
from stepgrant._wire import close_message, declare_message, open_message, read_answer, report_message
from stepgrant.answers import Answer, Challenge, Closed, Ended, Grant, Opened, Settled
from stepgrant.errors import Denial, GatewayUnavailableError, ProtocolError, StepgrantError, TaskClosedError
from stepgrant.patience import Patience
from stepgrant.v1 import agent_pb2

if TYPE_CHECKING:
    StreamCall: TypeAlias = grpc.aio.StreamStreamCall[agent_pb2.AgentMessage, agent_pb2.GatewayMessage]

ANSWER_TIMEOUT: Final = timedelta(seconds=10)
"""Longer than the gateway's own bound on recording, so that its answer, if there is one, is heard."""
MAX_IN_FLIGHT: Final = 64
"""Requests that wait for an answer at once; more of them queue here rather than be denied as `overloaded`."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opening:
    """What a task is opened with. `parameters_json` is canonical JSON (RFC 8785)."""

    task_type: str
    parameters_json: str = field(repr=False)
    purpose: str


@dataclass(frozen=True, slots=True)
class StepIntent:
    """What a step is going to do. `arguments_json` is canonical JSON; no parent = an empty id."""

    step_id: str
    parent_step_id: str
    tool: str
    arguments_json: str = field(repr=False)
    purpose: str
    wanted_ttl: timedelta | None


SignOpen: TypeAlias = Callable[[Challenge], tuple[bytes, bytes]]
"""Instance public key (SubjectPublicKeyInfo, DER) and its signature for this challenge."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request that has no answer yet, and what may answer it."""

    future: asyncio.Future[Any]
    step_id: str
    kinds: tuple[type[Any], ...]


class Session:
    """One open stream. Made by `open_session`; all methods belong to the loop that it was opened on."""

    def __init__(self, call: StreamCall, answer_timeout: timedelta) -> None:
        self._call = call
        self._timeout = answer_timeout.total_seconds()
        self._number = 0
        self._waiting: dict[int, _Waiting] = {}
        self._ends: dict[str, asyncio.Future[Ended]] = {}
        self._past: set[str] = set()
        self._outbox: asyncio.Queue[agent_pb2.AgentMessage] = asyncio.Queue()
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._over: StepgrantError | None = None
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]
        self._background: set[asyncio.Task[Any]] = set()

    @property
    def over(self) -> StepgrantError | None:
        """Why the stream is over; None while it lives."""
        return self._over

    def ended(self, step_id: str) -> asyncio.Future[Ended]:
        """Done when the step ended against the agent's will, the stream's end included."""
        return self._ends[step_id]

    async def declare(self, intent: StepIntent) -> Grant | Denial:
        """The grant, or the denial. A grant that comes after the caller was cancelled is reported as failed.

        Raises:
            GatewayUnavailableError, TaskClosedError: there is no answer; nothing may be done.
            ProtocolError: the gateway's answer breaks the protocol; the stream is closed.
        """
        self._refuse_when_over()
        self._ends[intent.step_id] = asyncio.get_running_loop().create_future()
        message = declare_message(
            step_id=intent.step_id,
            parent_step_id=intent.parent_step_id,
            tool=intent.tool,
            arguments_json=intent.arguments_json,
            purpose=intent.purpose,
            wanted_ttl=intent.wanted_ttl,
        )
        asking = self.background(self._ask_patiently("declare", message, intent.step_id))
        try:
            answer: Grant | Denial = await asyncio.shield(asking)
        except asyncio.CancelledError:
            self.background(self._give_back(asking, intent.step_id))
            raise
        except BaseException:
            self._forget(intent.step_id)
            raise
        if isinstance(answer, Denial):
            self._forget(intent.step_id)
        return answer

    async def renew(self, step_id: str) -> Grant | Denial:
        """A fresh grant of the same step, or the denial; errors as `declare`."""
        answer: Grant | Denial = await asyncio.shield(
            self.background(self._ask_patiently("renew", agent_pb2.Renew(step_id=step_id), step_id))
        )
        return answer

    async def report(self, step_id: str, *, failed: bool, result_sha256: bytes = b"", error_class: str = "") -> Settled:
        """Says how the step came out; errors as `declare`. From here on its end is nobody's surprise."""
        message = report_message(step_id=step_id, failed=failed, result_sha256=result_sha256, error_class=error_class)
        try:
            settled: Settled = await self._ask("report", message, step_id, (Settled,))
        finally:
            self._forget(step_id)
        return settled

    async def close(self, *, failed: bool) -> None:
        """Ends the task and the stream, whatever state they are in. Never raises but when cancelled."""
        try:
            while self._background:
                await asyncio.wait(self._background)
            if self._over is None:
                await self._ask("close", close_message(failed=failed), "", (Closed,))
        except StepgrantError as error:
            _log.warning("The task was not closed in order, its stream ends all the same: %s", error)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Ends the stream at once, and with it all that lives on it."""
        self._finish(TaskClosedError("the task is over; open a new one"))
        for task in self._tasks:
            task.cancel()

    def background(self, work: Any) -> asyncio.Task[Any]:
        """A task that goes on when whoever asked for it is cancelled; `close` waits for it."""
        task: asyncio.Task[Any] = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background_done)
        return task

    async def open(self, opening: Opening, challenge: Challenge, sign: SignOpen) -> Opened | Denial:
        """Answers the challenge; the first request of the stream."""
        instance_key, signature = sign(challenge)
        message = open_message(
            task_type=opening.task_type,
            parameters_json=opening.parameters_json,
            purpose=opening.purpose,
            instance_key=instance_key,
            signature=signature,
        )
        answer: Opened | Denial = await self._ask("open", message, "", (Opened, Denial))
        return answer

    async def _ask_patiently(self, kind: str, message: Any, step_id: str) -> Grant | Denial:
        """Asks for a grant, again when the gateway says that it has too much to do and when to come back."""
        patience = Patience()
        while True:
            answer: Grant | Denial = await self._ask(kind, message, step_id, (Grant, Denial))
            if isinstance(answer, Grant) or not await patience.waits(answer):
                return answer

    async def _ask(self, kind: str, message: Any, step_id: str, kinds: tuple[type[Any], ...]) -> Any:
        async with self._slots:
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
                error = GatewayUnavailableError(
                    f"the gateway did not answer within {self._timeout:g} s; the task is over, open it again"
                )
                self._finish(error)
                raise error from None

    async def _give_back(self, asking: asyncio.Task[Any], step_id: str) -> None:
        try:
            if isinstance(await asking, Grant):
                await self.report(step_id, failed=True, error_class="CancelledError")
        except StepgrantError as error:
            _log.warning("A cancelled step ends with its stream: %s", error)
        finally:
            self._forget(step_id)

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
                    self._finish(_ending(error_of(await self._call.code(), await self._call.details())))
                    return
                self._take(*read_answer(message))
        except ProtocolError as error:
            self._finish(error)
        except grpc.aio.AioRpcError as error:
            self._finish(_ending(error_of(error.code(), error.details())))
        finally:
            self._finish(GatewayUnavailableError("the stream to the gateway was cut; open the task again"))

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
            self._finish(
                TaskClosedError(f"the gateway closed the task ({answer.code}): {answer.reason} Open a new one.")
            )
        elif isinstance(answer, Ended):
            end = self._ends.get(answer.step_id)
            if end is None and answer.step_id not in self._past:
                raise ProtocolError("the gateway ends a step that was never declared on this stream")
            if end is not None and not end.done():
                end.set_result(answer)
        else:
            raise ProtocolError(f"the gateway pushed a {type(answer).__name__}")

    def _finish(self, error: StepgrantError) -> None:
        if self._over is not None:
            return
        self._over = error
        for waiting in self._waiting.values():
            if not waiting.future.done():
                waiting.future.set_exception(_again(error))
        self._waiting.clear()
        for step_id, end in self._ends.items():
            if not end.done():
                end.set_result(Ended(step_id, "abandoned", error.code, str(error)))
        self._call.cancel()

    def _forget(self, step_id: str) -> None:
        if self._ends.pop(step_id, None) is not None:
            self._past.add(step_id)

    def _background_done(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled():
            task.exception()  # Retrieved here, so that asyncio does not complain when nobody waits any more.

    def _refuse_when_over(self) -> None:
        if self._over is not None:
            raise _again(self._over)


async def open_session(
    call: StreamCall,
    gateway_id: str,
    opening: Opening,
    sign: SignOpen,
    answer_timeout: timedelta = ANSWER_TIMEOUT,
) -> tuple[Session, Opened] | Denial:
    """Opens the task on a fresh stream; `gateway_id` is the SPIFFE ID that the connection was authenticated for.

    Raises:
        GatewayUnavailableError, IdentityUnavailableError: the stream could not be had.
        ProtocolError: the gateway's words break the protocol, or name another gateway.
    """
    try:
        challenge = await _challenge(call, answer_timeout)
        if challenge.gateway_id != gateway_id:
            raise ProtocolError("the gateway's challenge names another gateway than the one that was authenticated")
    except BaseException:
        call.cancel()
        raise
    session = Session(call, answer_timeout)
    try:
        answer = await session.open(opening, challenge, sign)
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
    number, answer = read_answer(message)
    if number != 0 or not isinstance(answer, Challenge):
        raise ProtocolError("the gateway's first word is not a challenge")
    return answer


def _ending(error: StepgrantError) -> StepgrantError:
    """The same error, of which no further try in this task can be rid."""
    return error if isinstance(error, TaskClosedError) else type(error)(f"{error}; the task is over, open it again")


def _again(error: StepgrantError) -> StepgrantError:
    """The same error anew, so that no two raisers share a traceback."""
    return type(error)(*error.args)
