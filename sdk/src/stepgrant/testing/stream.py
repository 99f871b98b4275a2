"""One stream of a scripted gateway: the protocol as the real one speaks it, the decisions as the test wrote them."""

from __future__ import annotations

import asyncio
import hashlib
import os
from datetime import timedelta
from typing import Any, Final

from stepgrant._wire import NONCE_BYTES, RESUME_TOKEN_BYTES
from stepgrant._wire_strict import refuse_unknown
from stepgrant.assignment import TICKET_BYTES
from stepgrant.dpop import open_message, verify_open_proof
from stepgrant.errors import (
    ArgumentsInvalidError,
    Denial,
    DenialCode,
    InvalidInputError,
    InvalidSvidError,
    ProtocolError,
    StepgrantError,
)
from stepgrant.grant import PROTOCOL_REVISION
from stepgrant.ids import parse_tool, parse_ulid
from stepgrant.intent import MAX_PARAMETERS_BYTES, parse_object
from stepgrant.testing.failures import StepExistsError, invalid, status_of
from stepgrant.testing.lives import NOT_RESUMABLE, Lives, ScriptedStep, ScriptedTask
from stepgrant.testing.script import DeclaredStep, OpenedTask, ReportedStep, Rule, Script
from stepgrant.testing.signing import BINDINGS, Signer, unix_ms
from stepgrant.v1 import agent_pb2, types_pb2

TASK_LIFE: Final = timedelta(minutes=15)
LIMITS: Final = agent_pb2.Limits(live_steps=64, depth=8, arguments_bytes=64 * 1024, steps=10_000)
STEP_ENDED: Final = Denial(DenialCode.STEP_ENDED, "The step is over.", "Declare a new step.")
_REVOKES: Final = frozenset({DenialCode.NO_PERMIT, DenialCode.FORBIDDEN, DenialCode.LOCKED})
"""Renewals denied so revoke the step; others let the grant run out (INV-6)."""


class ScriptedStream:
    """One stream of one agent, from challenge to end, and the task that it has."""

    def __init__(
        self, script: Script, lives: Lives, signer: Signer, context: Any, *, workload: str, leaf_der: bytes
    ) -> None:
        self._script = script
        self._lives = lives
        self._signer = signer
        self._context = context
        self._workload = workload
        self._leaf_sha256 = hashlib.sha256(leaf_der).digest()
        self._task = ScriptedTask(OpenedTask("", "", {}, "", workload, b""), self)
        self._writing = asyncio.Lock()
        self._over = asyncio.Event()
        self._failure: Exception | None = None
        self._last_words: asyncio.Task[None] | None = None
        self._handlers: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Speaks first, listens until the agent or the test ends the stream."""
        nonce = os.urandom(NONCE_BYTES)
        challenge = agent_pb2.Challenge(nonce=nonce, gateway_id=self._signer.gateway_id, revision=PROTOCOL_REVISION)
        await self.say(agent_pb2.GatewayMessage(challenge=challenge))
        listening = asyncio.create_task(self._listen(nonce))
        try:
            await self._over.wait()
        finally:
            if self._has_task:
                self._task.lose(self._signer.now())
                self._task.over |= isinstance(self._failure, StepgrantError)
                self._script.lost.append(self._task.opened.task_id)
                await asyncio.shield(self._script.note())
            for task in [listening, *self._handlers]:
                task.cancel()
        if self._failure is not None:
            await self._context.abort(status_of(self._failure), str(self._failure))

    async def say(self, message: agent_pb2.GatewayMessage) -> None:
        """One message to the agent."""
        async with self._writing:
            await self._context.write(message)

    async def end_step(self, step_id: str, state: str, code: str, reason: str) -> None:
        """Ends a live step against the agent's will, and then its children."""
        step = self._task.steps.get(step_id)
        if step is None or step.state != "granted" or not self._has_task:
            return
        step.state = state
        ended = agent_pb2.Revoked(
            step_id=step_id, state=state, code=code, reason=reason, at_unix_ms=unix_ms(self._signer.now())
        )
        await self.say(agent_pb2.GatewayMessage(revoked=ended))
        await self._end_children(step_id)

    async def close(self, code: str, reason: str) -> None:
        """Ends the task: the last that the stream says."""
        self._task.over = True
        await self._close(code, reason)

    def cut(self) -> None:
        """Is lost, as by a network that fails."""
        self._over.set()

    def taken_over(self) -> None:
        """Another stream has the task: what was asked here is answered here, nothing else is heard, then it closes."""
        self._last_words = asyncio.create_task(self._hand_over())

    @property
    def _has_task(self) -> bool:
        return self._task.stream is self

    async def _hand_over(self) -> None:
        if self._handlers:
            await asyncio.wait(self._handlers)
        await self._close("taken_over", "Another stream has the task.")

    async def _close(self, code: str, reason: str) -> None:
        await self.say(agent_pb2.GatewayMessage(closed=agent_pb2.Closed(code=code, reason=reason)))
        self._over.set()

    async def _listen(self, nonce: bytes) -> None:
        number = 0
        try:
            while isinstance(message := await self._context.read(), agent_pb2.AgentMessage):
                if not self._has_task:
                    return
                number += 1
                refuse_unknown(message)
                if message.request != number:
                    raise ProtocolError(f"request {message.request} came where {number} must")
                kind = message.WhichOneof("message")
                if (kind == "open") != (number == 1):
                    raise ProtocolError("the first message, and no other, is Open")
                if kind == "open":
                    await self._open(message.open, nonce)
                elif kind == "close":
                    await self._closed(number, message.close)
                else:
                    self._start(kind, number, message)
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the stream with a status
            self._fail(error)
        finally:
            if self._has_task:
                self._over.set()

    def _start(self, kind: str | None, number: int, message: agent_pb2.AgentMessage) -> None:
        if kind == "declare":
            work = self._declare(number, message.declare)
        elif kind == "renew":
            work = self._renew(number, message.renew.step_id)
        else:
            work = self._report(number, message.report)
        task = asyncio.create_task(work)
        self._handlers.add(task)
        task.add_done_callback(self._handled)

    def _handled(self, task: asyncio.Task[None]) -> None:
        self._handlers.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._over.set()

    async def _open(self, message: agent_pb2.Open, nonce: bytes) -> None:
        if message.revision != PROTOCOL_REVISION:
            raise ProtocolError(f"the agent speaks revision {message.revision}")
        if len(message.resume_token) not in {0, RESUME_TOKEN_BYTES}:
            raise ProtocolError("the resume token is not of its size")
        if len(message.assignment) not in {0, TICKET_BYTES} or (message.assignment and message.resume_token):
            raise ProtocolError("the ticket is not of its size, or stands beside a resume token")
        signed = open_message(self._signer.gateway_id, nonce, self._leaf_sha256)
        try:
            jkt = verify_open_proof(message.instance_key, message.signature, signed)
        except InvalidInputError as error:
            raise InvalidSvidError("Open does not prove the instance key") from error
        try:
            parameters = parse_object(message.parameters_json, max_bytes=MAX_PARAMETERS_BYTES, what="parameters")
        except ArgumentsInvalidError as error:
            await self.say(agent_pb2.GatewayMessage(reply_to=1, denied=self._denied(invalid(error), "")))
            self._over.set()
            return
        asked = OpenedTask(
            self._signer.new_id(), message.task_type, parameters, message.purpose, self._workload, jkt,
            assigned=bool(message.assignment), subject_token=message.subject_token,
        )  # fmt: skip
        token, ticket = message.resume_token, message.assignment
        denial = self._take(token, asked) if token else self._begin(asked, ticket)
        if denial is not None:
            await self.say(agent_pb2.GatewayMessage(reply_to=1, denied=self._denied(denial, "")))
            self._over.set()
        else:
            await self.say(agent_pb2.GatewayMessage(reply_to=1, opened=self._opened()))
        await self._script.note()

    def _begin(self, asked: OpenedTask, ticket: bytes) -> Denial | None:
        """A new task, or why not."""
        self._task = ScriptedTask(asked, self)
        self._script.opened.append(asked)
        return self._script.take(ticket, asked) if ticket else self._script.for_task(asked.task_type)

    def _take(self, token: bytes, asked: OpenedTask) -> Denial | None:
        """The task that is taken up or over is this stream's from now on; or why not."""
        task = self._lives.find(token, asked, self._signer.now())
        if task is None:
            return NOT_RESUMABLE
        denial = self._script.for_task(asked.task_type, assigned=task.opened.assigned)
        if denial is not None:
            return denial
        self._lives.use(task)
        before, task.stream, task.lost_at = task.stream, self, None
        self._task = task
        self._script.resumed.append(task.opened.task_id)
        if before is not None:
            before.taken_over()
        return None

    async def _declare(self, number: int, message: agent_pb2.Declare) -> None:
        step_id = parse_ulid(message.step_id, "step_id")
        try:
            arguments = parse_object(message.arguments_json)
        except ArgumentsInvalidError as error:
            denied = self._denied(invalid(error), step_id)
            await self.say(agent_pb2.GatewayMessage(reply_to=number, denied=denied))
            return
        declared = DeclaredStep(
            task_id=self._task.opened.task_id,
            step_id=step_id,
            parent_step_id=parse_ulid(message.parent_step_id, "parent") if message.parent_step_id else "",
            tool=parse_tool(message.tool),
            arguments=arguments,
            purpose=message.purpose,
            wanted_ttl=timedelta(milliseconds=message.wanted_ttl_ms) if message.wanted_ttl_ms else None,
        )
        intent = hashlib.sha256(message.SerializeToString(deterministic=True)).digest()
        known = self._task.steps.get(declared.step_id)
        if known is not None:
            if known.digest != intent:
                raise StepExistsError("the step id stands for another intent")
            answer = known.answer
            if known.state not in {"granted", "denied"}:
                answer = self._decide(declared, STEP_ENDED, known.leaf_sha256)
        else:
            self._script.declared.append(declared)
            await self._script.note()
            await self._script.until_released(declared.tool)
            answer = self._decide(declared, self._rule(declared), self._leaf_sha256)
            granted = answer.WhichOneof("message") == "granted"
            if answer.denied.code != DenialCode.OVERLOADED.value:
                # Who is put off has not been looked at, and may ask again.
                state = "granted" if granted else "denied"
                self._task.steps[declared.step_id] = ScriptedStep(declared, intent, answer, state, self._leaf_sha256)
        await self.say(_reply(number, answer))

    async def _renew(self, number: int, step_id: str) -> None:
        step = self._step(step_id)
        self._script.renewed.append(step_id)
        rule = self._script.for_renewal(step.declared.tool)
        if step.state != "granted":
            rule = STEP_ENDED
        answer = self._decide(step.declared, rule, step.leaf_sha256)
        await self.say(_reply(number, answer))
        if isinstance(rule, Denial) and rule.code in _REVOKES:
            await self.end_step(step_id, "revoked", "policy_changed", rule.reason)
        await self._script.note()

    async def _report(self, number: int, message: agent_pb2.Report) -> None:
        step = self._step(message.step_id)
        failed, late = message.outcome == types_pb2.OUTCOME_FAILED, step.state != "granted"
        if not late:
            step.state = "failed" if failed else "completed"
            await self._end_children(message.step_id)
        self._script.reported.append(
            ReportedStep(message.step_id, step.declared.tool, failed, message.error_class, message.result_sha256, late)
        )
        settled = agent_pb2.Settled(step_id=message.step_id, state=step.state, late=late)
        await self.say(agent_pb2.GatewayMessage(reply_to=number, settled=settled))
        await self._script.note()

    async def _closed(self, number: int, message: agent_pb2.Close) -> None:
        self._task.over = True
        self._script.closed.append((self._task.opened.task_id, message.outcome == types_pb2.OUTCOME_FAILED))
        if self._handlers:
            await asyncio.wait(self._handlers)
        closed = agent_pb2.Closed(code="closed", reason="The agent closed the task.")
        await self.say(agent_pb2.GatewayMessage(reply_to=number, closed=closed))
        await self._script.note()
        self._over.set()

    def _rule(self, declared: DeclaredStep) -> Rule:
        parent = self._task.steps.get(declared.parent_step_id)
        if declared.parent_step_id and (parent is None or parent.state != "granted"):
            return Denial(DenialCode.PARENT_ENDED, "The parent step is over.", "Declare it without a parent.")
        return self._script.for_tool(declared.tool)

    def _step(self, step_id: str) -> ScriptedStep:
        step = self._task.steps.get(step_id)
        if step is None:
            raise ProtocolError("the step was not declared in this task")
        return step

    async def _end_children(self, step_id: str) -> None:
        for child in [one.declared for one in self._task.steps.values() if one.declared.parent_step_id == step_id]:
            await self.end_step(child.step_id, "revoked", "parent_ended", "The parent step is over.")

    def _decide(self, declared: DeclaredStep, rule: Rule, leaf_sha256: bytes) -> agent_pb2.GatewayMessage:
        if isinstance(rule, Denial):
            return agent_pb2.GatewayMessage(denied=self._denied(rule, declared.step_id))
        return agent_pb2.GatewayMessage(granted=self._signer.grant(declared, rule, self._task.opened, leaf_sha256))

    def _opened(self) -> agent_pb2.Opened:
        return agent_pb2.Opened(
            task_id=self._task.opened.task_id,
            instance_id=self._signer.instance_id,
            expires_unix_ms=unix_ms(self._signer.now() + TASK_LIFE),
            tools=[
                agent_pb2.ToolOffer(tool=tool, audience=rule.audience, binding=BINDINGS[rule.binding])
                for tool, rule in sorted(self._script.tools().items())
            ],
            limits=LIMITS,
            resume_token=self._lives.issue(self._task),
            live_steps=self._task.live,
        )

    def _denied(self, denial: Denial, step_id: str) -> types_pb2.Denied:
        return types_pb2.Denied(
            step_id=step_id,
            decision_id=self._signer.new_id(),
            code=denial.code.value,
            reason=denial.reason,
            next=denial.next,
            argument=denial.argument,
            retry_after_ms=0 if denial.retry_after is None else denial.retry_after // timedelta(milliseconds=1),
        )


def _reply(number: int, answer: agent_pb2.GatewayMessage) -> agent_pb2.GatewayMessage:
    message = agent_pb2.GatewayMessage()
    message.CopyFrom(answer)
    message.reply_to = number
    return message
