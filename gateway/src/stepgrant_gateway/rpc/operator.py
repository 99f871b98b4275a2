"""`Operator`: the operators' face of the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from stepgrant._wire_strict import refuse_unknown
from stepgrant.errors import InvalidInputError, ProtocolError
from stepgrant.selector import Selector
from stepgrant.subject import MAX_SUBJECT_ID_CHARACTERS
from stepgrant.v1 import ledger_pb2, operator_pb2, operator_pb2_grpc, types_pb2
from stepgrant_gateway.core.errors import Finding, NotAllowedError
from stepgrant_gateway.core.ledger import Record
from stepgrant_gateway.core.revocation import Lock
from stepgrant_gateway.core.views import StepView, TaskView
from stepgrant_gateway.rpc.caller import current_caller
from stepgrant_gateway.rpc.limits import MAX_ID, MAX_LISTED_FINDINGS, MAX_LISTED_TASKS, MAX_TEXT, MAX_TOOL
from stepgrant_gateway.rpc.live import LiveCalls
from stepgrant_gateway.rpc.status import CallLostError, abort
from stepgrant_gateway.rpc.wire import bounded, millis, ulid_field
from stepgrant_gateway.rpc.wire_feed import lock as lock_message

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Response = TypeVar("_Response")


class LockOutcome(Protocol):
    """What came of setting a lock (`app.operating.LockSet`)."""

    @property
    def lock(self) -> Lock:
        """The lock, in force."""

    @property
    def durable(self) -> bool:
        """False: in force, not yet recorded."""

    @property
    def ended_steps(self) -> int:
        """Live steps that it ended."""


class ReloadOutcome(Protocol):
    """What came of a reload (`app.operating.Reloaded`)."""

    @property
    def activated(self) -> bool:
        """False: refused; the set of before stays."""

    @property
    def policy_digest(self) -> str:
        """Of the set that is active now."""

    @property
    def findings(self) -> Sequence[Finding]:
        """What was wrong."""

    @property
    def ended_steps(self) -> int:
        """Live steps that the new set no longer permits."""

    @property
    def cases(self) -> int:
        """Golden cases that ran."""


class Operations(Protocol):
    """What operators can do (`app.operating.Operating`)."""

    def tasks(self) -> Sequence[TaskView]:
        """Open tasks, oldest first."""

    def steps(self, task_id: str) -> Sequence[StepView]:
        """Steps of an open task."""

    async def set_lock(self, selector: Selector, reason: str, by: str) -> LockOutcome:
        """Denies at once."""

    async def lift_lock(self, lock_id: str, reason: str, by: str) -> Lock:
        """Lifts a lock."""

    def locks(self) -> Sequence[Lock]:
        """Locks in force."""

    async def reload_policy(self, by: str) -> ReloadOutcome:
        """Loads the policy directory anew."""


Tail = Callable[[int, bool], AsyncIterator[Record]]
"""Ledger records with a sequence above the first argument; goes on with new ones if the second is True."""


Denied = Callable[[str, str], None]
"""Hears what was asked by somebody who may not, and who it was: for the ledger."""


class OperatorService(operator_pb2_grpc.OperatorServicer):
    """Serves the operators that gateway.toml lists, and nobody else."""

    def __init__(
        self, operating: Operations, tail: Tail, operators: frozenset[str], live: LiveCalls, denied: Denied
    ) -> None:
        self._operating = operating
        self._tail = tail
        self._operators = operators
        self._live = live
        self._denied = denied

    async def ListTasks(  # noqa: N802 - gRPC's name
        self, request: operator_pb2.ListTasksRequest, context: _Context
    ) -> operator_pb2.ListTasksResponse:
        """Tasks that are open."""

        async def answer(_: str) -> operator_pb2.ListTasksResponse:
            views = list(self._operating.tasks())[:MAX_LISTED_TASKS]
            return operator_pb2.ListTasksResponse(tasks=[_task(view) for view in views])

        return await self._operate(request, context, answer)

    async def ListSteps(  # noqa: N802 - gRPC's name
        self, request: operator_pb2.ListStepsRequest, context: _Context
    ) -> operator_pb2.ListStepsResponse:
        """Steps of one open task."""

        async def answer(_: str) -> operator_pb2.ListStepsResponse:
            views = self._operating.steps(ulid_field(request.task_id, "ListStepsRequest.task_id"))
            return operator_pb2.ListStepsResponse(steps=[_step(view) for view in views])

        return await self._operate(request, context, answer)

    async def SetLock(  # noqa: N802 - gRPC's name
        self, request: operator_pb2.SetLockRequest, context: _Context
    ) -> operator_pb2.SetLockResponse:
        """Denies at once what the selector matches."""

        async def answer(by: str) -> operator_pb2.SetLockResponse:
            reason = bounded(request.reason, MAX_TEXT, "SetLockRequest.reason", least=1)
            done = await self._operating.set_lock(_selector(request.selector), reason, by)
            return operator_pb2.SetLockResponse(
                lock=lock_message(done.lock), durable=done.durable, ended_steps=done.ended_steps
            )

        return await self._operate(request, context, answer)

    async def LiftLock(  # noqa: N802 - gRPC's name
        self, request: operator_pb2.LiftLockRequest, context: _Context
    ) -> operator_pb2.LiftLockResponse:
        """Lifts a lock."""

        async def answer(by: str) -> operator_pb2.LiftLockResponse:
            reason = bounded(request.reason, MAX_TEXT, "LiftLockRequest.reason", least=1)
            lifted = await self._operating.lift_lock(ulid_field(request.lock_id, "LiftLockRequest.lock_id"), reason, by)
            return operator_pb2.LiftLockResponse(lock=lock_message(lifted))

        return await self._operate(request, context, answer)

    async def ListLocks(  # noqa: N802 - gRPC's name
        self, request: operator_pb2.ListLocksRequest, context: _Context
    ) -> operator_pb2.ListLocksResponse:
        """Locks in force."""

        async def answer(_: str) -> operator_pb2.ListLocksResponse:
            return operator_pb2.ListLocksResponse(locks=[lock_message(lock) for lock in self._operating.locks()])

        return await self._operate(request, context, answer)

    async def ReloadPolicy(  # noqa: N802 - gRPC's name
        self, request: operator_pb2.ReloadPolicyRequest, context: _Context
    ) -> operator_pb2.ReloadPolicyResponse:
        """Loads the policy directory anew."""

        async def answer(by: str) -> operator_pb2.ReloadPolicyResponse:
            done = await self._operating.reload_policy(by)
            return operator_pb2.ReloadPolicyResponse(
                activated=done.activated,
                policy_digest=done.policy_digest,
                findings=[_finding(finding) for finding in done.findings[:MAX_LISTED_FINDINGS]],
                ended_steps=done.ended_steps,
                cases=done.cases,
            )

        return await self._operate(request, context, answer)

    async def TailLedger(self, request: operator_pb2.TailLedgerRequest, context: _Context) -> None:  # type: ignore[override]  # noqa: N802 - gRPC's name; its reader-writer form of a stream
        """Ledger records from a sequence on, then as they come."""

        async def answer(_: str) -> None:
            await self._stream_records(request, context)

        await self._operate(request, context, answer)

    async def _stream_records(self, request: operator_pb2.TailLedgerRequest, context: _Context) -> None:
        writer = asyncio.get_running_loop().create_task(self._write_records(request, context))
        lost: list[CallLostError] = []

        def lose(code: str, reason: str) -> None:
            lost.append(CallLostError(code, reason))
            writer.cancel()

        call = self._live.enter(current_caller(), lose)
        try:
            await writer
        except asyncio.CancelledError:
            if lost:
                raise lost[0] from None
            raise
        finally:
            writer.cancel()
            call.leave()

    async def _write_records(self, request: operator_pb2.TailLedgerRequest, context: _Context) -> None:
        async for record in self._tail(request.after_sequence, request.follow):
            await context.write(
                ledger_pb2.LedgerRecord(
                    instance_id=record.instance_id,
                    sequence=record.sequence,
                    previous_hash=record.previous_hash,
                    hash=record.hash,
                    body=record.body,
                )
            )

    async def _operate(
        self, request: Message, context: _Context, answer: Callable[[str], Awaitable[_Response]]
    ) -> _Response:
        """The answer to a listed operator; everybody else is refused before anything is looked at."""
        try:
            by = current_caller().id
            if by not in self._operators:
                self._denied(f"Operator: {request.DESCRIPTOR.name}", f"{by} is not an operator")
                raise NotAllowedError(
                    f"{by} is not an operator: list it under `operators` in gateway.toml, and start the gateway again"
                )
            refuse_unknown(request)
            return await answer(by)
        except Exception as error:  # noqa: BLE001 - every failure gets its status
            await abort(context, error)


def _selector(message: types_pb2.Selector) -> Selector:
    try:
        return Selector(
            workload=bounded(message.workload, MAX_ID, "Selector.workload") or None,
            task_type=bounded(message.task_type, 128, "Selector.task_type") or None,
            tool=bounded(message.tool, MAX_TOOL, "Selector.tool") or None,
            target=bounded(message.target, MAX_ID, "Selector.target") or None,
            subject=bounded(message.subject, MAX_SUBJECT_ID_CHARACTERS, "Selector.subject") or None,
        )
    except InvalidInputError as error:
        raise ProtocolError(str(error)) from error


def _task(view: TaskView) -> operator_pb2.TaskSummary:
    return operator_pb2.TaskSummary(
        task_id=view.task_id,
        task_type=view.task_type,
        workload=view.workload,
        opened_unix_ms=millis(view.opened_at),
        expires_unix_ms=millis(view.expires_at),
        live_steps=view.live_steps,
        steps=view.steps,
        labels=view.labels,
        subject=view.subject,
        vouched_by=view.vouched_by,
        dispatcher=view.dispatcher,
        branch_id=view.branch_id,
        chain=view.chain,
    )


def _step(view: StepView) -> operator_pb2.StepSummary:
    return operator_pb2.StepSummary(
        step_id=view.step_id,
        tool=view.tool,
        target=view.target,
        state=view.state,
        reason=view.reason,
        declared_unix_ms=millis(view.declared_at),
        expires_unix_ms=0 if view.expires_at is None else millis(view.expires_at),
        parent_step_id=view.parent_step_id or "",
    )


def _finding(finding: Finding) -> operator_pb2.PolicyFinding:
    return operator_pb2.PolicyFinding(
        # Names of files are bytes to the system, and may be no text at all.
        file=finding.file.encode("utf-8", "replace").decode("utf-8"),
        line=finding.line,
        policy_id=finding.policy_id,
        message=finding.message.encode("utf-8", "replace").decode("utf-8")[:MAX_TEXT],
        nearest=finding.nearest,
    )
