"""A whole step by the SDK, redeemed at a protected resource, against the same call to a bare server."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from echo import SIZE_BYTES, UNARY
from rig import ECHO, GATEWAY, ORDERS, Rig, channel

import stepgrant

# The demo's programs import its generated code by this name, and so must their client.
sys.path.append(str(Path(__file__).parents[1] / "examples" / "demo"))
from shop.orders_pb2 import GetRequest, SearchRequest
from shop.orders_pb2_grpc import OrdersStub

__all__ = ["OrdersStub", "SearchRequest", "contestants"]

ORDER: Final = "ord_00000042"


class WholeSteps:
    """Declare, call with the grant (verified and redeemed there), report: what an agent's tool costs in all."""

    def __init__(self, task: stepgrant.Task, orders: OrdersStub) -> None:
        self._task = task
        self._orders = orders
        self.sizes = (0, 0)
        """Bytes of the last request and answer of the call."""

    async def step(self) -> float:
        """See `streams.Contestant`; here all of it is timed."""
        request = GetRequest(order_id=ORDER)
        begun = time.perf_counter()
        async with self._task.step("orders.get", {"order_id": ORDER}):
            answer = await self._orders.Get(request)
        took = time.perf_counter() - begun
        self.sizes = (request.ByteSize(), answer.ByteSize())
        return took


class BareCalls:
    """The call alone."""

    def __init__(self, call: Any, sizes: tuple[int, int]) -> None:
        self._call = call
        asked, answered = sizes
        self._message = answered.to_bytes(SIZE_BYTES, "big").ljust(asked, b"\0")

    async def step(self) -> float:
        """See `streams.Contestant`."""
        begun = time.perf_counter()
        await self._call(self._message)
        return time.perf_counter() - begun


@asynccontextmanager
async def contestants(rig: Rig, orders_at: str, echo: str) -> AsyncIterator[tuple[WholeSteps, BareCalls]]:
    """Both, warm."""
    async with (
        stepgrant.connect(rig.gateway, GATEWAY, rig.identity) as client,
        client.task("Refund", {"order_id": ORDER, "customer": "jo@x.org"}) as task,
        stepgrant.channel(ORDERS, orders_at) as orders,
        channel(rig, echo, ECHO) as to_echo,
    ):
        ours = WholeSteps(task, OrdersStub(orders))
        for _ in range(10):
            await ours.step()
        theirs = BareCalls(to_echo.unary_unary(UNARY), ours.sizes)
        for _ in range(10):
            await theirs.step()
        yield ours, theirs
