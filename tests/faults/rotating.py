"""A continuous load of steps that are redeemed at a gRPC and at an HTTP resource, and everything that was refused."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from stepgrant.client import Client
from stepgrant.outgoing.grpc import channel
from stepgrant.outgoing.http import HttpAuth
from stepgrant.tasks import Task
from tests.kit.running import Running
from tests.kit.servers import GRPC_CALLS, HTTP_CALLS, MAIL, ORDERS, call, mail_server, orders_server

PARAMETERS: Final = {"order_id": "ord_00000042", "customer": "jo@example.org"}
PATIENCE: Final = 20.0
"""Seconds that a test waits for what must happen."""


@dataclass(slots=True)
class Load:
    """What the load has seen. `refused` holds whatever kept a step from being done."""

    running: Running
    done: int = 0
    tasks: int = 0
    refused: list[str] = field(default_factory=list)
    _moved: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def goes_on(self, steps: int = 40) -> None:
        """Returns when so many more steps were done, or one was refused."""
        wanted = self.done + steps
        async with asyncio.timeout(PATIENCE), self._moved:
            await self._moved.wait_for(lambda: self.done >= wanted or self.refused)

    async def work(self, client: Client, orders: str, mail: str, *, steps: int) -> None:
        """Tasks of so many steps, one after the other."""
        while True:
            async with client.task("Refund", PARAMETERS) as task:
                self.tasks += 1
                auth = HttpAuth(MAIL, mail, HTTP_CALLS, insecure_http=True)
                async with (
                    channel(ORDERS, orders, calls=GRPC_CALLS) as opened,
                    httpx.AsyncClient(base_url=mail, auth=auth, timeout=PATIENCE) as web,
                ):
                    for _ in range(steps):
                        await self._step(task, opened, web)

    async def _step(self, task: Task, opened: Any, web: httpx.AsyncClient) -> None:
        try:
            async with task.step("mail.read", {"mailbox": "support"}):
                answer = await web.get("/mailboxes/support")
                if answer.status_code != 200:
                    self.refused.append(answer.text)
            await call(opened)
        except Exception as error:
            self.refused.append(repr(error))
            raise
        finally:
            async with self._moved:
                self.done += 1
                self._moved.notify_all()


@contextlib.asynccontextmanager
async def loaded(running: Running, *, workers: int = 3, steps: int = 12) -> AsyncIterator[Load]:
    """The load, as long as the block runs. A task that fails is over, and its worker with it."""
    load = Load(running)
    async with orders_server(running) as (orders, _), mail_server(running) as mail:
        client = await running.client()
        working = [asyncio.create_task(load.work(client, orders, mail, steps=steps)) for _ in range(workers)]
        try:
            yield load
        finally:
            for worker in working:
                worker.cancel()
            await asyncio.wait(working)
            for worker in working:
                if not worker.cancelled() and worker.exception() is not None:
                    load.refused.append(repr(worker.exception()))
