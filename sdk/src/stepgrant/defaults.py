"""The client that a program gets which names none: one for each event loop of the process, closed with the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from datetime import datetime
from functools import lru_cache
from weakref import WeakKeyDictionary

from stepgrant.client import CURRENT_CLIENT, Client, connect
from stepgrant.handed import Assignment


async def current_client() -> Client:
    """The innermost client that was entered with `async with`; without one, that of the running loop.

    Raises:
        MisuseError: there is none, and the environment does not say where the gateway is.
    """
    client = CURRENT_CLIENT.get()
    if client is not None:
        return client
    loop = asyncio.get_running_loop()
    lifetimes = _lifetimes()
    if loop not in lifetimes:
        client = connect()
        # `asyncio.run` closes asynchronous generators before the loop: the one hook that it has for what lives on a loop.
        lifetime = _lifetime(client)
        lifetimes[loop] = (client, lifetime)
        await anext(lifetime)
    return lifetimes[loop][0]


async def assign(
    task_type: str,
    parameters: Mapping[str, object] | None = None,
    *,
    to: str,
    until: datetime,
    purpose: str = "",
    ticket: bytes | None = None,
) -> Assignment:
    """A task for the workload `to` to open until then, once; by the client that `task` would use. See `Client.assign`."""
    client = await current_client()
    return await client.assign(task_type, parameters, to=to, until=until, purpose=purpose, ticket=ticket)


async def withdraw(assignment: Assignment | str) -> str:
    """Takes back an assignment, and ends the task that was opened with it. See `Client.withdraw`."""
    client = await current_client()
    return await client.withdraw(assignment)


async def _lifetime(client: Client) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        _lifetimes().pop(asyncio.get_running_loop(), None)
        await client.close()


@lru_cache(maxsize=1)
def _lifetimes() -> WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Client, AsyncGenerator[None, None]]]:
    """Made at first use. A connection belongs to one loop and an instance to one process, so there is one a loop.

    This is the only state of the process besides the instance key; whoever wants none passes a client of their own.
    """
    return WeakKeyDictionary()
