"""An agent that works until it cannot: steps one after the other, and one that lasts as long as an SVID.

It says each step with the SVID that it was granted to, each long step that came through a rotation, and how it ended.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

import grpc

import stepgrant
from stepgrant import Denied, GatewayUnavailableError, Revoked, StepgrantError, Task, TaskClosedError
from stepgrant.grant import REFUSAL_METADATA_KEY
from stepgrant.holding import Holder
from tests.integration.spire.programs.lines import say, tell_identities
from tests.kit.servers import GRPC_CALLS, ORDER, call

TASK: Final = {"order_id": ORDER.order_id, "customer": "jo@x.org"}
READ: Final = ("orders.get", {"order_id": ORDER.order_id})


async def main(audience: str, target: str) -> None:
    try:
        async with (
            stepgrant.task("Refund", **TASK) as task,
            stepgrant.channel(audience, target, calls=GRPC_CALLS) as opened,
        ):
            say(task=task.id)
            tell_identities(task.holder.source)
            async with asyncio.TaskGroup() as group:
                group.create_task(steps(task, opened))
                group.create_task(long_steps(task, opened))
    except* (StepgrantError, grpc.RpcError) as errors:
        for error in errors.exceptions:
            say(stopped=named(error), text=str(error))
    await open_again()


async def open_again() -> None:
    """Until it may not: it says each answer once. While there is an SVID there is nothing to stop it but the gateway."""
    heard = ""
    while True:
        try:
            async with stepgrant.task("Refund", **TASK):
                pass
        except StepgrantError as error:
            if named(error) != heard:
                heard = named(error)
                say(not_opened=heard, text=str(error))
            if not isinstance(error, GatewayUnavailableError | TaskClosedError):
                return


async def steps(task: Task, opened: grpc.aio.Channel) -> None:
    """Each declared, redeemed at the resource, and reported."""
    while True:
        async with task.step(*READ) as step:
            await call(opened)
        say(step=step.holder.identity.credential_sha256.hex())


async def long_steps(task: Task, opened: grpc.aio.Channel) -> None:
    """Each begins with one SVID and calls with its successor there: under the one that it was granted to."""
    while True:
        async with task.step(*READ) as step:
            await outdated(step.holder)
            await call(opened)
        say(lasted=step.holder.identity.credential_sha256.hex())


async def outdated(holder: Holder) -> None:
    """Returns when there is a newer identity."""
    changed, loop = asyncio.Event(), asyncio.get_running_loop()
    forget = holder.source.subscribe(lambda: loop.call_soon_threadsafe(changed.set))
    try:
        while not holder.outdated():
            await changed.wait()
            changed.clear()
    finally:
        forget()


def named(error: BaseException) -> str:
    """The stable code of what happened."""
    if isinstance(error, Denied):
        return error.denial.code.value
    if isinstance(error, Revoked):
        return error.cause
    if isinstance(error, grpc.aio.AioRpcError):
        return str(dict(error.trailing_metadata() or ()).get(REFUSAL_METADATA_KEY, error.code()))
    return error.code if isinstance(error, StepgrantError) else type(error).__name__


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
