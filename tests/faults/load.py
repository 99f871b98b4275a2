"""A light load of real agents, a resource and an operator, and a book of everything that they were told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from stepgrant.calls import Call
from stepgrant.client import Client
from stepgrant.errors import GatewayUnavailableError, GrantRefusedError, RefusalCode, Revoked, TaskClosedError
from stepgrant.ids import ULID_RANDOM_BYTES, ulid
from stepgrant.step import Step
from stepgrant.tasks import Task
from stepgrant.v1 import operator_pb2, operator_pb2_grpc, types_pb2, verifier_pb2, verifier_pb2_grpc
from stepgrant.verify import Verifier
from stepgrant.verify.verifier import Holder, TlsHolder
from stepgrant_gateway.system import SystemClock, system_entropy
from tests.faults.serving import PATIENCE, Site

ORDERS: Final = "spiffe://dev.stepgrant.test/resource/orders"
AGENTS: Final = 3
LOCKED: Final = "ord_locked{:02}"
"""Orders that only the operator deals with; agents have their own."""
LOCKED_ORDERS: Final = 100
GONE: Final = frozenset({"gateway_unavailable", "task_closed"})
"""What a step's end is called when the gateway is gone in the middle of it."""
UNPROVEN: Final = frozenset({RefusalCode.FEED_STALE, RefusalCode.UNKNOWN_KEY})
"""What a resource answers while it cannot know."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A grant as whoever got hold of it could show it: with its call and its rightful holder."""

    token: str
    call: Call
    holder: Holder


@dataclass(slots=True)
class Told:
    """What clients were told, over all lives of the gateway; `hear` is called at each answer."""

    hear: Callable[[], None] = lambda: None
    grants: dict[str, tuple[str, str]] = field(default_factory=dict)
    redeemed: dict[str, str] = field(default_factory=dict)
    """grant by redemption id"""
    locked: dict[str, str] = field(default_factory=dict)
    """target by id, of locks that are in force and durable"""
    lifted: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)
    """locks whose lifting had no answer"""
    tokens: list[Shown] = field(default_factory=list)
    """of the life of now"""
    accepted: int = 0
    """calls that the resource accepted"""


@dataclass(slots=True)
class Load:
    """Who works against the gateway of now. `run` returns when it is gone."""

    site: Site
    told: Told
    clients: list[Client]
    verifier: Verifier
    numbers: Any
    turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    """of the operator, which would ask more often than one may if nothing held it back"""

    async def run(self) -> None:
        """Works until everything fails; what fails is the gateway's death, and nothing else is caught."""
        workers = [self._agent(number, client) for number, client in enumerate(self.clients)]
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as everybody:
            operator = everybody.create_task(_until_gone(self._operator()))
            async with asyncio.TaskGroup() as group:
                for worker in (*workers, self._held(self.clients[0])):
                    group.create_task(_until_gone(worker))
            operator.cancel()

    async def _agent(self, number: int, client: Client) -> None:
        order = f"ord_agent00{number}"
        async with self.site.channel("resource/orders") as channel:
            resource = verifier_pb2_grpc.GrantVerifierStub(channel)
            while True:
                async with client.task("Refund", {"order_id": order, "customer": "jo@example.org"}) as task:
                    self.told.hear()
                    async with task.step("orders.get", {"order_id": order}) as step:
                        self._note(task, step, {"order_id": order})
                        await self._redeem(resource, step.grant.grant_id)
                    async with task.step("orders.refund", {"order_id": order, "amount": 1}) as step:
                        self._note(task, step, {"order_id": order, "amount": 1})
                        await step.renew()
                        self._note(task, step, {"order_id": order, "amount": 1})
                        await self._redeem(resource, step.grant.grant_id)
                self.told.hear()
                self.turn.release()

    async def _redeem(self, resource: Any, grant_id: str) -> None:
        """Two uses of a grant that has one, at once, and the first of them asked for again."""
        first, second = (ulid(SystemClock().now(), system_entropy(ULID_RANDOM_BYTES)) for _ in range(2))

        async def take(redemption_id: str) -> bool:
            request = verifier_pb2.RedeemRequest(audience=ORDERS, grant_id=grant_id, redemption_id=redemption_id)
            answer = await resource.Redeem(request, timeout=PATIENCE)
            if answer.accepted:
                self.told.redeemed[redemption_id] = grant_id
            self.told.hear()
            return bool(answer.accepted)

        taken = await asyncio.gather(take(first), take(second), take(first))
        assert taken[0] == taken[2], "the same redemption id got two answers"
        assert taken[0] != taken[1], "a grant of one use was taken twice, or never"

    async def _held(self, client: Client) -> None:
        """A step that lives until the gateway dies; its grant is accepted until then."""
        arguments: dict[str, Any] = {"query": "jo@example.org"}
        async with client.task("Refund", {"order_id": "ord_00000042", "customer": "jo@example.org"}) as task:
            async with task.step("orders.search", arguments) as step:
                shown = self._note(task, step, arguments)
                await self.verifier.verify(shown.token, shown.call, shown.holder)
                self.told.accepted += 1
                await asyncio.Event().wait()

    async def _operator(self) -> None:
        """Locks an order whenever an agent is through with a task, and lifts every lock but each third."""
        async with self.site.channel("operator/jo") as channel:
            operator = operator_pb2_grpc.OperatorStub(channel)
            while await self.turn.acquire():
                target = f"pg://orders/{LOCKED.format(self.numbers.randrange(LOCKED_ORDERS))}"
                selector = types_pb2.Selector(tool="orders.get", target=target)
                request = operator_pb2.SetLockRequest(selector=selector, reason="an incident")
                set_ = await operator.SetLock(request, timeout=PATIENCE)
                assert set_.durable
                self.told.locked[set_.lock.lock_id] = target
                self.told.hear()
                if len(self.told.locked) % 3:
                    lock_id = self.numbers.choice(sorted(self.told.locked))
                    self.told.doubtful.add(lock_id)
                    await operator.LiftLock(operator_pb2.LiftLockRequest(lock_id=lock_id, reason="over"))
                    self.told.doubtful.discard(lock_id)
                    del self.told.locked[lock_id]
                    self.told.lifted.add(lock_id)
                    self.told.hear()

    def _note(self, task: Task, step: Step, arguments: dict[str, Any]) -> Shown:
        identity = step.holder.identity
        holder = TlsHolder(identity.spiffe_id, identity.leaf_sha256)
        shown = Shown(step.grant.token, Call(step.tool, arguments), holder)
        self.told.tokens.append(shown)
        self.told.grants[step.grant.grant_id] = (task.id, step.id)
        self.told.hear()
        return shown


async def _until_gone(work: Any) -> None:
    try:
        await work
    except (GatewayUnavailableError, TaskClosedError):
        return
    except Revoked as error:
        if error.cause not in GONE:
            raise
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
    except GrantRefusedError as error:
        if error.refusal.code not in UNPROVEN:
            raise
