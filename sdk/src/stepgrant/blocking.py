"""The same for blocking code: `connect`, `task` and `tool` for `with`, on one event loop in a thread of its own.

A body that is revoked cannot be interrupted: it hears of it at its next call and at its end, as `Revoked`. Ctrl-C and
exceptions end the step.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Self

from stepgrant import client as asynchronous
from stepgrant import guard
from stepgrant.defaults import current_client
from stepgrant.envelope import Bounds
from stepgrant.handed import Assignment, HandOff
from stepgrant.spiffe.source import IdentitySource
from stepgrant.step import Step
from stepgrant.subject_token import SubjectToken
from stepgrant.tasks import Task as AsynchronousTask
from stepgrant.tasks import What, working_for
from stepgrant.threads import BlockingStep, wait_for

__all__ = ["BlockingStep", "Client", "Task", "connect", "hand_off", "renew", "task", "tool"]

tool = guard.tool
"""`stepgrant.tool` itself: it takes functions of either kind."""


class Task:
    """One open task, for blocking code. Made by `Client.task` and `task`."""

    def __init__(self, inner: AsynchronousTask) -> None:
        self._inner = inner

    def __repr__(self) -> str:
        """Type and id; never a parameter."""
        return repr(self._inner)

    @property
    def id(self) -> str:
        """The task's id, a ULID."""
        return self._inner.id

    @property
    def branch_id(self) -> str:
        """The branch of the task that this is; as `stepgrant.Task.branch_id`."""
        return self._inner.branch_id

    def step(
        self,
        tool: str,
        arguments: Mapping[str, object] | None = None,
        *,
        purpose: str = "",
        wanted_ttl: timedelta | None = None,
        parent: Step | None = None,
        renew: bool = True,
    ) -> BlockingStep:
        """A step to be entered with `with`; as `stepgrant.Task.step`."""
        return BlockingStep(
            self._inner.step(tool, arguments, purpose=purpose, wanted_ttl=wanted_ttl, parent=parent, renew=renew)
        )


class Client:
    """The client of one gateway, for blocking code. Enter it with `with`, or call `close` when done."""

    def __init__(self, inner: asynchronous.Client, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop
        self._entered = ExitStack()

    def __enter__(self) -> Self:
        """Makes this the client that `stepgrant.blocking.task` uses inside."""
        token = asynchronous.CURRENT_CLIENT.set(self._inner)
        self._entered.callback(lambda: asynchronous.CURRENT_CLIENT.reset(token))
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self._entered.close()
        self.close()

    @contextmanager
    def task(
        self,
        what: What,
        parameters: Mapping[str, object] | None = None,
        *,
        purpose: str = "",
        subject_token: SubjectToken | None = None,
    ) -> Iterator[Task]:
        """An open task for as long as the block runs; as `stepgrant.Client.task`."""
        opening = self._inner.opened(what, parameters, purpose=purpose, subject_token=subject_token)
        with _opened(self._loop, opening) as inner:
            yield Task(inner)

    def assign(
        self,
        task_type: str,
        parameters: Mapping[str, object] | None = None,
        *,
        to: str,
        until: datetime,
        purpose: str = "",
        ticket: bytes | None = None,
    ) -> Assignment:
        """A task for another workload to open; as `stepgrant.Client.assign`."""
        assigning = self._inner.assign(task_type, parameters, to=to, until=until, purpose=purpose, ticket=ticket)
        return wait_for(self._loop, assigning)

    def withdraw(self, assignment: Assignment | str) -> str:
        """Takes back an assignment of this workload; as `stepgrant.Client.withdraw`."""
        return wait_for(self._loop, self._inner.withdraw(assignment))

    def close(self) -> None:
        """Closes the connections, and with them tasks that are still open."""
        wait_for(self._loop, self._inner.close())


def connect(
    gateway: str | None = None,
    gateway_id: str | None = None,
    identity: IdentitySource | None = None,
    credential: str | None = None,
) -> Client:
    """The client of one gateway; as `stepgrant.connect`."""
    return Client(asynchronous.connect(gateway, gateway_id, identity, credential), _loop(os.getpid()))


@contextmanager
def task(what: What, /, *, subject_token: SubjectToken | None = None, **parameters: object) -> Iterator[Task]:
    """An open task that the tools called inside work for; as `stepgrant.task`.

    In a thread of asynchronous code that entered a client, it is that client's, and served by its loop.
    """
    ambient = asynchronous.CURRENT_CLIENT.get()
    loop = (None if ambient is None else ambient.loop) or _loop(os.getpid())
    client = wait_for(loop, current_client())
    with _opened(loop, client.opened(what, parameters, subject_token=subject_token)) as inner:
        yield Task(inner)


def hand_off(to: str, envelope: Bounds, *, purpose: str = "") -> HandOff:
    """Hands the step whose body runs here on to the workload `to`; as `stepgrant.hand_off`."""
    step = guard.current_step()
    return wait_for(step.holder.loop, step.hand_off(to, envelope, purpose=purpose))


def renew(step: Step) -> None:
    """A fresh grant for a step that was entered with `with`; errors as `Step.renew`."""
    wait_for(step.holder.loop, step.renew())


@contextmanager
def _opened(loop: asyncio.AbstractEventLoop, opening: Any) -> Iterator[AsynchronousTask]:
    """Enters and leaves an asynchronous context on its loop, each in a call of its own."""
    inner: AsynchronousTask = wait_for(loop, _enter(opening))
    failed = True
    try:
        with working_for(inner):
            yield inner
        failed = False
    finally:
        error = RuntimeError("the block failed") if failed else None
        wait_for(loop, _leave(opening, error))


async def _enter(opening: Any) -> AsynchronousTask:
    inner: AsynchronousTask = await opening.__aenter__()
    return inner


async def _leave(opening: Any, error: BaseException | None) -> None:
    try:
        await opening.__aexit__(type(error) if error else None, error, None)
    except RuntimeError as raised:
        if raised is not error:
            raise


@lru_cache(maxsize=1)
def _loop(process: int) -> asyncio.AbstractEventLoop:  # noqa: ARG001 - the key of the cache: threads do not survive a fork
    """The loop that serves all blocking clients of the process; started at first use, stopped at exit."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="stepgrant", daemon=True)
    thread.start()

    def stop() -> None:
        asyncio.run_coroutine_threadsafe(loop.shutdown_asyncgens(), loop).result(timeout=5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=5)

    atexit.register(stop)
    return loop
