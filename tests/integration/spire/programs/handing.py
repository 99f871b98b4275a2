"""An agent that hands a refund on to a workload and waits for its end; or, with the slip, the one that works on it."""

from __future__ import annotations

import asyncio
import sys
from typing import Final

import grpc

import stepgrant
from stepgrant import StepgrantError
from stepgrant.handed import HandOff
from tests.integration.spire.programs.agent import READ, TASK, named
from tests.integration.spire.programs.lines import say
from tests.kit.servers import GRPC_CALLS, ORDER, call

PAY: Final = ("orders.refund", {"order_id": ORDER.order_id, "amount": 40})
BOUNDS: Final = {"orders.get": {"order_id": {"exact": ORDER.order_id}}}


async def give(audience: str, target: str, receiver: str) -> None:
    """Policy gives a refund to who has read the order."""
    async with (
        stepgrant.task("Refund", **TASK) as task,
        stepgrant.channel(audience, target, calls=GRPC_CALLS) as opened,
    ):
        await call(opened)
        async with task.step(*PAY) as step:
            say(slip=(await step.hand_off(receiver, BOUNDS)).slip(), step=step.id)
            await asyncio.Event().wait()


async def work(audience: str, target: str, slip: str) -> None:
    """Reads the order until it may not, and asks for what was not handed on."""
    async with (
        stepgrant.task(HandOff.read(slip)) as branch,
        stepgrant.channel(audience, target, calls=GRPC_CALLS) as opened,
    ):
        say(branch=branch.branch_id, called=await call(opened))
        try:
            async with branch.step(*PAY):
                pass
        except stepgrant.Denied as denied:
            say(denied=denied.denial.code.value)
        while True:
            async with branch.step(*READ):
                await call(opened)


async def main(audience: str, target: str, handed: str) -> None:
    try:
        await (give if handed.startswith("spiffe://") else work)(audience, target, handed)
    except (StepgrantError, grpc.RpcError) as error:
        say(stopped=named(error), text=str(error))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
