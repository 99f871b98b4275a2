"""Mixed real work for a soak: agents by the SDK, calls to a protected resource, denials, renewals, locks, reconnects."""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
from rig import DOMAIN, GATEWAY, OPERATOR, ORDERS, SUPPORT, Rig, channel

import stepgrant
from stepgrant.client import Client
from stepgrant.v1 import operator_pb2, operator_pb2_grpc, types_pb2

# The demo's programs import its generated code by this name, and so must their client.
sys.path.append(str(Path(__file__).parents[1] / "examples" / "demo"))
from shop.orders_pb2 import GetRequest, RefundRequest, SearchRequest
from shop.orders_pb2_grpc import OrdersStub

WORKERS: Final = 16
AGENTS: Final = tuple(f"{SUPPORT}/{number}" for number in range(4))
LOCKED: Final = f"{SUPPORT}/locked"
"""The agent that the operator locks, over and over."""
IDENTITIES: Final = (*AGENTS, LOCKED)
CONNECTION_ROUNDS: Final = 50
"""Rounds of a worker on one connection; then it connects anew."""
LOCK_EVERY_SECONDS: Final = 2.0
FAILURE: Final = 200
"""Characters of a failure that are kept."""
ORDER: Final = "ord_00000042"
TASK: Final = {"order_id": ORDER, "customer": "jo@x.org"}
_ULID: Final = re.compile("[0-9A-HJKMNP-TV-Z]{26}")


class Pace:
    """Hands out turns at a rate; who comes late does not make up for it with a burst."""

    def __init__(self, per_second: float | None) -> None:
        """None: as fast as they are taken."""
        self._apart = 0.0 if per_second is None else 1 / per_second
        self._next = time.monotonic()

    async def turn(self) -> None:
        """Returns when it is this caller's turn."""
        now = time.monotonic()
        mine = max(self._next, now - self._apart)
        self._next = mine + self._apart
        await asyncio.sleep(mine - now)


@dataclass(slots=True)
class Book:
    """What was done since the book was taken last."""

    rounds: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    """What went wrong that should not, by what it said."""
    seconds: list[float] = field(default_factory=list)
    """Of each round."""

    def take(self) -> Book:
        """What is in it, and it is empty."""
        taken = Book(self.rounds, self.failures, self.seconds)
        self.rounds, self.failures, self.seconds = Counter(), Counter(), []
        return taken


async def refund(client: Client, orders: Any) -> None:
    """A whole job: read the order, pay it back; both uses are redeemed and attested."""
    async with client.task("Refund", TASK) as task:
        async with task.step("orders.get", {"order_id": ORDER}):
            await orders.Get(GetRequest(order_id=ORDER))
        async with task.step("orders.refund", {"order_id": ORDER, "amount": 1}):
            await orders.Refund(RefundRequest(order_id=ORDER, amount=1))


async def search(client: Client, orders: Any) -> None:
    """Searches one after the other, and two at once."""
    async with client.task("Refund", TASK) as task:

        async def one() -> None:
            async with task.step("orders.search", {"query": "jo@x.org", "limit": 20}):
                await orders.Search(SearchRequest(query="jo@x.org", limit=20))

        await one()
        await asyncio.gather(one(), one())


async def renew(client: Client, orders: Any) -> None:
    """A step that lives longer than its first grant."""
    arguments = {"query": "jo", "limit": 20}
    async with client.task("Refund", TASK) as task, task.step("orders.search", arguments) as step:
        await orders.Search(SearchRequest(**arguments))
        await step.renew()
        await orders.Search(SearchRequest(**arguments))


async def denied(client: Client, _orders: Any) -> None:
    """What the task is not for."""
    async with client.task("Refund", TASK) as task:
        try:
            async with task.step("orders.refund", {"order_id": "ord_00000043", "amount": 900}):
                raise RuntimeError("granted")
        except stepgrant.Denied:
            pass


ROUNDS: Final[tuple[Callable[[Client, Any], Awaitable[None]], ...]] = (refund, search, refund, renew, search, denied)


async def work(rig: Rig, orders_at: str, pace: Pace, book: Book) -> None:
    """All workers and the operator, until they are cancelled. Whatever fails is in the book, and the work goes on."""
    async with asyncio.TaskGroup() as group:
        for number in range(WORKERS):
            group.create_task(_worker(rig, orders_at, number, pace, book))
        group.create_task(_incidents(rig, book))


async def _worker(rig: Rig, orders_at: str, number: int, pace: Pace, book: Book) -> None:
    identity = rig.identity_of(AGENTS[number % len(AGENTS)])
    rounds = itertools.cycle(ROUNDS[number % len(ROUNDS) :] + ROUNDS[: number % len(ROUNDS)])
    while True:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(stepgrant.connect(rig.gateway, GATEWAY, identity))
            orders = OrdersStub(await stack.enter_async_context(stepgrant.channel(ORDERS, orders_at)))
            for _ in range(CONNECTION_ROUNDS):
                await pace.turn()
                one = next(rounds)
                await _noted(one.__name__, one(client, orders), book)


async def _incidents(rig: Rig, book: Book) -> None:
    """A step at a time that an operator's lock ends."""
    async with stepgrant.connect(rig.gateway, GATEWAY, rig.identity_of(LOCKED)) as client:
        while True:
            await asyncio.sleep(LOCK_EVERY_SECONDS)
            # A channel shows one SVID for as long as it lives, and an operator works for longer than that.
            async with channel(rig, rig.gateway, GATEWAY, identity=OPERATOR) as to_operator:
                await _noted("lock", _incident(client, operator_pb2_grpc.OperatorStub(to_operator)), book)


async def _incident(client: Client, operator: Any) -> None:
    selector = types_pb2.Selector(workload=f"{DOMAIN}/{LOCKED}", tool="orders.search")
    async with AsyncExitStack() as stack:
        try:
            async with client.task("Refund", TASK) as task, task.step("orders.search", {"query": "jo"}):
                # Beside the body: the lock ends the step, and cancels its body, before its operator hears of it.
                setting = asyncio.create_task(_locked(operator, selector))
                stack.push_async_callback(_lifted, operator, setting)
                await asyncio.sleep(LOCK_EVERY_SECONDS)
        except stepgrant.Revoked:
            return
        raise RuntimeError("the step outlived its lock")


async def _locked(operator: Any, selector: Any) -> str:
    answer = await operator.SetLock(operator_pb2.SetLockRequest(selector=selector, reason="soak"))
    return str(answer.lock.lock_id)


async def _lifted(operator: Any, setting: asyncio.Task[str]) -> None:
    await operator.LiftLock(operator_pb2.LiftLockRequest(lock_id=await setting, reason="soak"))


async def _noted(name: str, one: Awaitable[None], book: Book) -> None:
    begun = time.monotonic()
    try:
        await one
    except (stepgrant.StepgrantError, grpc.aio.AioRpcError, RuntimeError) as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # It failed on its way out, and the work is over all the same.
            raise asyncio.CancelledError from error
        book.failures[_ULID.sub("...", f"{name}: {type(error).__name__}: {error}")[:FAILURE]] += 1
        return
    book.rounds[name] += 1
    if name != "lock":
        book.seconds.append(time.monotonic() - begun)
