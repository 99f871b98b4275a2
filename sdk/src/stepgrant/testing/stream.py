"""One stream of a scripted gateway: the protocol as the real one speaks it, the decisions as the test wrote them."""

from __future__ import annotations

import asyncio
import hashlib
import os
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

import grpc

from stepgrant._wire import NONCE_BYTES
from stepgrant._wire_strict import refuse_unknown
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
from stepgrant.testing.branches import STEP_ENDED, hand_on
from stepgrant.testing.failures import StepExistsError, invalid, refuse_malformed, status_of
from stepgrant.testing.lives import NOT_RESUMABLE, Lives, ScriptedStep, ScriptedTask
from stepgrant.testing.messages import denied, handed_off, opened, reply
from stepgrant.testing.script import DeclaredStep, OpenedTask, ReportedStep, Rule, Script
from stepgrant.testing.signing import Signer, unix_ms
from stepgrant.v1 import agent_pb2, types_pb2

_ORIGIN_ENDED: Final = ("parent_ended", "The step that was handed on is over.")
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
                for step_id in self._task.live:
                    self._end_branches(step_id)
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

    def origin_ended(self) -> None:
        """The step that the branch is below is over: so are its own, and then it closes."""
        self._last_words = asyncio.create_task(self._end_branch())

    @property
    def _has_task(self) -> bool:
        return self._task.stream is self

    async def _hand_over(self) -> None:
        if self._handlers:
            await asyncio.wait(self._handlers)
        await self._close("taken_over", "Another stream has the task.")

    async def _end_branch(self) -> None:
        with suppress(grpc.aio.UsageError, asyncio.InvalidStateError):  # The agent is gone, and hears nothing any more.
            for step_id in self._task.live:
                await self.end_step(step_id, "revoked", *_ORIGIN_ENDED)
            await self._close(*_ORIGIN_ENDED)

    async def _deny(self, number: int, denial: Denial, step_id: str = "") -> None:
        await self.say(agent_pb2.GatewayMessage(reply_to=number, denied=denied(self._signer, denial, step_id)))

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
        elif kind == "hand_off":
            work = self._hand_off(number, message.hand_off)
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
        refuse_malformed(message)
        signed = open_message(self._signer.gateway_id, nonce, self._leaf_sha256)
        try:
            jkt = verify_open_proof(message.instance_key, message.signature, signed)
        except InvalidInputError as error:
            raise InvalidSvidError("Open does not prove the instance key") from error
        try:
            parameters = parse_object(message.parameters_json, max_bytes=MAX_PARAMETERS_BYTES, what="parameters")
        except ArgumentsInvalidError as error:
            await self._deny(1, invalid(error))
            self._over.set()
            return
        asked = OpenedTask(
            self._signer.new_id(), message.task_type, parameters, message.purpose, self._workload, jkt,
            assigned=bool(message.assignment), subject_token=message.subject_token,
        )  # fmt: skip
        denial = self._take(message.resume_token, asked) if message.resume_token else self._begin(asked, message)
        if denial is not None:
            await self._deny(1, denial)
            self._over.set()
        else:
            said = opened(self._signer, self._task, self._script.tools(), self._lives.issue(self._task))
            await self.say(agent_pb2.GatewayMessage(reply_to=1, opened=said))
        await self._script.note()

    def _begin(self, asked: OpenedTask, message: agent_pb2.Open) -> Denial | None:
        """A new task or a new branch, or why not."""
        below, denial = "", None
        if message.hand_off:
            branch = self._script.take_hand_off(message.hand_off, asked)
            denial, (asked, below) = (branch, (asked, "")) if isinstance(branch, Denial) else (None, branch)
        elif message.assignment:
            denial = self._script.take(message.assignment, asked)
        else:
            denial = self._script.for_task(asked.task_type)
        self._task = ScriptedTask(asked, self, below=below)
        self._script.opened.append(asked)
        return denial

    def _take(self, token: bytes, asked: OpenedTask) -> Denial | None:
        """The task that is taken up or over is this stream's from now on; or why not."""
        task = self._lives.find(token, asked, self._signer.now())
        if task is None:
            return NOT_RESUMABLE
        denial = self._script.for_task(asked.task_type, assigned=task.opened.assigned or bool(task.opened.branch_id))
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
            await self._deny(number, invalid(error), step_id)
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
            if answer.denied.code != DenialCode.OVERLOADED.value:
                # Who is put off has not been looked at, and may ask again.
                state = str(answer.WhichOneof("message"))
                self._task.steps[declared.step_id] = ScriptedStep(declared, intent, answer, state, self._leaf_sha256)
        await self.say(reply(number, answer))

    async def _renew(self, number: int, step_id: str) -> None:
        step = self._step(step_id)
        self._script.renewed.append(step_id)
        rule = self._script.for_renewal(step.declared.tool)
        if step.state != "granted":
            rule = STEP_ENDED
        answer = self._decide(step.declared, rule, step.leaf_sha256)
        await self.say(reply(number, answer))
        if isinstance(rule, Denial) and rule.code in _REVOKES:
            await self.end_step(step_id, "revoked", "policy_changed", rule.reason)
        await self._script.note()

    async def _hand_off(self, number: int, message: agent_pb2.HandOff) -> None:
        step = self._step(message.step_id)
        await self._script.until_released(step.declared.tool)
        made = hand_on(self._script, self._task, step, message)
        if isinstance(made, Denial):
            await self._deny(number, made, message.step_id)
        else:
            said = handed_off(self._signer, made, message.step_id)
            await self.say(agent_pb2.GatewayMessage(reply_to=number, handed_off=said))
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

    def _end_branches(self, step_id: str) -> None:
        self._script.withdraw_offers(step_id)
        for branch in self._lives.branches(step_id):
            branch.over = True
            if branch.stream is not None:
                branch.stream.origin_ended()

    async def _end_children(self, step_id: str) -> None:
        self._end_branches(step_id)
        for child in [one.declared for one in self._task.steps.values() if one.declared.parent_step_id == step_id]:
            await self.end_step(child.step_id, "revoked", "parent_ended", "The parent step is over.")

    def _decide(self, declared: DeclaredStep, rule: Rule, leaf_sha256: bytes) -> agent_pb2.GatewayMessage:
        if isinstance(rule, Denial):
            return agent_pb2.GatewayMessage(denied=denied(self._signer, rule, declared.step_id))
        return agent_pb2.GatewayMessage(granted=self._signer.grant(declared, rule, self._task.opened, leaf_sha256))
