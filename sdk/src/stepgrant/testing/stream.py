"""One stream of a scripted gateway: the protocol as the real one speaks it, the decisions as the test wrote them."""

from __future__ import annotations

import asyncio
import hashlib
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import grpc

from stepgrant._wire import NONCE_BYTES, RESUME_TOKEN_BYTES
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
from stepgrant.testing.script import DeclaredStep, OpenedTask, ReportedStep, Rule, Script
from stepgrant.testing.signing import BINDINGS, Signer, unix_ms
from stepgrant.v1 import agent_pb2, types_pb2

TASK_LIFE: Final = timedelta(minutes=15)
LIMITS: Final = agent_pb2.Limits(live_steps=64, depth=8, arguments_bytes=64 * 1024, steps=10_000)
_REVOKES: Final = frozenset({DenialCode.NO_PERMIT, DenialCode.FORBIDDEN, DenialCode.LOCKED})
"""Renewals denied so revoke the step; others let the grant run out (INV-6)."""


@dataclass(slots=True)
class _Step:
    declared: DeclaredStep
    digest: bytes
    answer: agent_pb2.GatewayMessage
    state: str


class _ExistsError(StepgrantError):
    """The step id stands for another intent."""

    code = "step_exists"


class ScriptedStream:
    """One task of one agent, from challenge to end."""

    def __init__(self, script: Script, signer: Signer, context: Any, *, workload: str, leaf_der: bytes) -> None:
        self._script = script
        self._signer = signer
        self._context = context
        self._workload = workload
        self._leaf_sha256 = hashlib.sha256(leaf_der).digest()
        self._jkt = b""
        self._task = OpenedTask("", "", {}, "", workload, b"")
        self._steps: dict[str, _Step] = {}
        self._writing = asyncio.Lock()
        self._over = asyncio.Event()
        self._failure: Exception | None = None
        self._handlers: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Speaks first, listens until the agent or the test ends the stream."""
        nonce = os.urandom(NONCE_BYTES)
        await self.say(
            agent_pb2.GatewayMessage(
                challenge=agent_pb2.Challenge(
                    nonce=nonce, gateway_id=self._signer.gateway_id, revision=PROTOCOL_REVISION
                )
            )
        )
        listening = asyncio.create_task(self._listen(nonce))
        try:
            await self._over.wait()
        finally:
            for task in [listening, *self._handlers]:
                task.cancel()
        if self._failure is not None:
            await self._context.abort(_status_of(self._failure), str(self._failure))

    async def say(self, message: agent_pb2.GatewayMessage) -> None:
        """One message to the agent."""
        async with self._writing:
            await self._context.write(message)

    async def end_step(self, step_id: str, state: str, code: str, reason: str) -> None:
        """Ends a live step against the agent's will, and then its children."""
        step = self._steps.get(step_id)
        if step is None or step.state != "granted":
            return
        step.state = state
        ended = agent_pb2.Revoked(
            step_id=step_id, state=state, code=code, reason=reason, at_unix_ms=unix_ms(self._signer.now())
        )
        await self.say(agent_pb2.GatewayMessage(revoked=ended))
        await self._end_children(step_id)

    async def close(self, code: str, reason: str) -> None:
        """Ends the task: the last that the stream says."""
        await self.say(agent_pb2.GatewayMessage(closed=agent_pb2.Closed(code=code, reason=reason)))
        self._over.set()

    async def _listen(self, nonce: bytes) -> None:
        number = 0
        try:
            while isinstance(message := await self._context.read(), agent_pb2.AgentMessage):
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
        signed = open_message(self._signer.gateway_id, nonce, self._leaf_sha256)
        try:
            self._jkt = verify_open_proof(message.instance_key, message.signature, signed)
        except InvalidInputError as error:
            raise InvalidSvidError("Open does not prove the instance key") from error
        try:
            parameters = parse_object(message.parameters_json, max_bytes=MAX_PARAMETERS_BYTES, what="parameters")
        except ArgumentsInvalidError as error:
            await self.say(agent_pb2.GatewayMessage(reply_to=1, denied=self._denied(_invalid(error), "")))
            self._over.set()
            return
        self._task = OpenedTask(
            self._signer.new_id(), message.task_type, parameters, message.purpose, self._workload, self._jkt
        )
        self._script.opened.append(self._task)
        denial = self._script.for_task(message.task_type)
        if denial is not None:
            await self.say(agent_pb2.GatewayMessage(reply_to=1, denied=self._denied(denial, "")))
            self._over.set()
        else:
            await self.say(agent_pb2.GatewayMessage(reply_to=1, opened=self._opened()))
        await self._script.note()

    async def _declare(self, number: int, message: agent_pb2.Declare) -> None:
        step_id = parse_ulid(message.step_id, "step_id")
        try:
            arguments = parse_object(message.arguments_json)
        except ArgumentsInvalidError as error:
            denied = self._denied(_invalid(error), step_id)
            await self.say(agent_pb2.GatewayMessage(reply_to=number, denied=denied))
            return
        declared = DeclaredStep(
            task_id=self._task.task_id,
            step_id=step_id,
            parent_step_id=parse_ulid(message.parent_step_id, "parent") if message.parent_step_id else "",
            tool=parse_tool(message.tool),
            arguments=arguments,
            purpose=message.purpose,
            wanted_ttl=timedelta(milliseconds=message.wanted_ttl_ms) if message.wanted_ttl_ms else None,
        )
        intent = hashlib.sha256(message.SerializeToString(deterministic=True)).digest()
        known = self._steps.get(declared.step_id)
        if known is not None:
            if known.digest != intent:
                raise _ExistsError("the step id stands for another intent")
            answer = known.answer
        else:
            self._script.declared.append(declared)
            await self._script.note()
            await self._script.until_released(declared.tool)
            answer = self._decide(declared, self._rule(declared))
            granted = answer.WhichOneof("message") == "granted"
            if (
                answer.denied.code != DenialCode.OVERLOADED.value
            ):  # Who is put off has not been looked at, and may ask again.
                self._steps[declared.step_id] = _Step(declared, intent, answer, "granted" if granted else "denied")
        await self.say(_reply(number, answer))

    async def _renew(self, number: int, step_id: str) -> None:
        step = self._step(step_id)
        self._script.renewed.append(step_id)
        rule = self._script.for_renewal(step.declared.tool)
        if step.state != "granted":
            rule = Denial(DenialCode.STEP_ENDED, "The step is over.", "Declare a new step.")
        answer = self._decide(step.declared, rule)
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
        self._script.closed.append((self._task.task_id, message.outcome == types_pb2.OUTCOME_FAILED))
        if self._handlers:
            await asyncio.wait(self._handlers)
        closed = agent_pb2.Closed(code="closed", reason="The agent closed the task.")
        await self.say(agent_pb2.GatewayMessage(reply_to=number, closed=closed))
        await self._script.note()
        self._over.set()

    def _rule(self, declared: DeclaredStep) -> Rule:
        parent = self._steps.get(declared.parent_step_id)
        if declared.parent_step_id and (parent is None or parent.state != "granted"):
            return Denial(DenialCode.PARENT_ENDED, "The parent step is over.", "Declare it without a parent.")
        return self._script.for_tool(declared.tool)

    def _step(self, step_id: str) -> _Step:
        step = self._steps.get(step_id)
        if step is None:
            raise ProtocolError("the step was not declared in this task")
        return step

    async def _end_children(self, step_id: str) -> None:
        for child in [one.declared for one in self._steps.values() if one.declared.parent_step_id == step_id]:
            await self.end_step(child.step_id, "revoked", "parent_ended", "The parent step is over.")

    def _decide(self, declared: DeclaredStep, rule: Rule) -> agent_pb2.GatewayMessage:
        if isinstance(rule, Denial):
            return agent_pb2.GatewayMessage(denied=self._denied(rule, declared.step_id))
        return agent_pb2.GatewayMessage(granted=self._signer.grant(declared, rule, self._task, self._leaf_sha256))

    def _opened(self) -> agent_pb2.Opened:
        return agent_pb2.Opened(
            task_id=self._task.task_id,
            instance_id=self._signer.instance_id,
            expires_unix_ms=unix_ms(self._signer.now() + TASK_LIFE),
            tools=[
                agent_pb2.ToolOffer(tool=tool, audience=rule.audience, binding=BINDINGS[rule.binding])
                for tool, rule in sorted(self._script.tools().items())
            ],
            limits=LIMITS,
            resume_token=os.urandom(RESUME_TOKEN_BYTES),
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


def _invalid(error: ArgumentsInvalidError) -> Denial:
    return Denial(DenialCode.ARGUMENTS_INVALID, error.reason, error.fix, argument=error.argument)


def _status_of(error: Exception) -> grpc.StatusCode:
    if isinstance(error, _ExistsError):
        return grpc.StatusCode.ALREADY_EXISTS
    if isinstance(error, InvalidSvidError):
        return grpc.StatusCode.UNAUTHENTICATED
    return grpc.StatusCode.INVALID_ARGUMENT if isinstance(error, InvalidInputError) else grpc.StatusCode.INTERNAL
