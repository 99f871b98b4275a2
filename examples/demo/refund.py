"""The agent's program, as its developer writes it: tools are functions, and a task is what they work for."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Final

import httpx
from shop.orders_pb2 import GetRequest, Order, RefundRequest
from shop.orders_pb2_grpc import OrdersStub

import stepgrant

ORDERS: Final = "spiffe://dev.stepgrant.test/resource/orders"
MAIL: Final = "https://mail.dev.stepgrant.test"


class Desk:
    """What a support agent can do. Each call is a step of its own: declared, granted, used, ended."""

    def __init__(self, orders: OrdersStub, mail: httpx.AsyncClient) -> None:
        self._orders = orders
        self._mail = mail

    @stepgrant.tool("orders.get")
    async def get_order(self, order_id: str) -> Order:
        """One order."""
        return await self._orders.Get(GetRequest(order_id=order_id))

    @stepgrant.tool("orders.refund")
    async def refund(self, order_id: str, amount: Decimal) -> str:
        """Pays back what was paid. It looks again first: a step inside this step, within what the catalog lets it call."""
        order = await self.get_order(order_id)
        if Decimal(str(order.paid)) < amount:
            raise ValueError(f"only {order.paid} was paid")
        return (await self._orders.Refund(RefundRequest(order_id=order_id, amount=float(amount)))).receipt

    @stepgrant.tool("mail.send")
    async def send(self, to: list[str], subject: str, body: str) -> None:
        """One message."""
        response = await self._mail.post("/messages", json={"to": to, "subject": subject, "body": body})
        response.raise_for_status()


@asynccontextmanager
async def desk() -> AsyncIterator[Desk]:
    """The desk of the task that is open here; grants go along with its calls by themselves."""
    mail = os.environ["MAIL_URL"]
    auth = stepgrant.HttpAuth(MAIL, mail, insecure_http=True)  # Loopback only: elsewhere it refuses http.
    async with (
        stepgrant.channel(ORDERS, os.environ["ORDERS_ADDRESS"]) as orders,
        httpx.AsyncClient(base_url=mail, auth=auth) as http,
    ):
        yield Desk(OrdersStub(orders), http)


async def pay_back(order_id: str, customer: str) -> str:
    """The whole job; returns the id of its task."""
    async with stepgrant.task("Refund", order_id=order_id, customer=customer) as task, desk() as support:
        order = await support.get_order(order_id)
        receipt = await support.refund(order_id, Decimal(str(order.paid)))
        await support.send([customer], "Your refund", f"It is on its way: {receipt}.")
        return task.id
