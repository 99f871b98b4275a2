"""The agent's process: does its job, and then what it should not do, one scene for each line on its standard input."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from lines import Lines
from refund import desk, pay_back

import stepgrant

TASK: Final = {"order_id": "ord_00000042", "customer": "jo@x.org"}
Told = dict[str, Any]


async def main() -> None:
    """Scene after scene, until the input ends."""
    lines = await Lines.open()
    lines.say({"ready": True})
    while (asked := await lines.hear()) is not None:
        try:
            told = await SCENES[asked["scene"]](lines)
        except stepgrant.StepgrantError as error:
            told = {"error": type(error).__name__, "code": _code(error), "text": str(error)}
        lines.say(told)


async def job(_lines: Lines) -> Told:
    """What it is there for."""
    return {"task": await pay_back(**TASK)}


async def other_argument(_lines: Lines) -> Told:
    """An injected agent refunds another order than its task is about."""
    async with stepgrant.task("Refund", **TASK), desk() as support:
        await support.get_order("ord_00000042")
        await support.refund("ord_00000043", Decimal(900))
    return {"code": "done"}


async def undeclared_tool(_lines: Lines) -> Told:
    """It calls a tool that the catalog does not have."""
    async with stepgrant.task("Refund", **TASK) as task, task.step("orders.purge", {"order_id": "ord_00000042"}):
        return {"code": "done"}


async def step_of_get(lines: Lines) -> Told:
    """A read whose step is over, in a task that is not; the thief has its grant."""
    async with stepgrant.task("Refund", **TASK) as task:
        async with task.step("orders.get", {"order_id": "ord_00000042"}) as step:
            stolen = _stolen(step)
        lines.say(stolen)
        await lines.hear()
    return {"code": "done"}


async def step_of_refund(lines: Lines) -> Told:
    """A refund of 4.00 that is granted and not yet made; the thief has its grant."""
    async with stepgrant.task("Refund", **TASK) as task, desk() as support:
        await support.get_order("ord_00000042")
        async with task.step("orders.refund", {"order_id": "ord_00000042", "amount": 4}) as step:
            lines.say(_stolen(step))
            await lines.hear()
    return {"code": "done"}


async def step_of_search(lines: Lines) -> Told:
    """A search that goes on until it is told to end, or ended."""
    async with stepgrant.task("Refund", **TASK) as task, task.step("orders.search", {"query": "jo@x.org"}) as step:
        lines.say(_stolen(step))
        while (asked := await lines.hear()) is not None and asked.get("renew"):
            lines.say(_stolen(step, await step.renew()))
    return {"code": "done"}


async def step_of_order_77(lines: Lines) -> Told:
    """A read in a task of its own, which goes on until it is ended."""
    async with stepgrant.task("Refund", order_id="ord_00000077", customer="sam@x.org") as task:
        step = task.step("orders.get", {"order_id": "ord_00000077"})
        async with step:
            lines.say(_stolen(step))
            await lines.hear()
    return {"code": "done"}


async def out_of_time(lines: Lines) -> Told:
    """A step that wants two seconds, and takes longer."""
    async with stepgrant.task("Refund", **TASK) as task:
        wanted = timedelta(seconds=2)
        async with task.step("orders.search", {"query": "jo@x.org"}, wanted_ttl=wanted, renew=False) as step:
            lines.say(_stolen(step))
            await lines.hear()
    return {"code": "done"}


def _stolen(step: stepgrant.Step, grant: stepgrant.Grant | None = None) -> Told:
    """What somebody would have who can read this process's memory: the token, and the certificate and key it is bound to.

    No program hands these out. The SDK keeps them out of every log and repr; this takes them on purpose, for the thief.
    """
    grant = grant or step.grant
    identity = step.holder.identity
    return {
        "token": grant.token,
        "life": grant.life.total_seconds(),
        "chain": [base64.b64encode(one).decode("ascii") for one in identity.chain_der],
        "key": identity.private_key_pem.decode("ascii"),
    }


def _code(error: stepgrant.StepgrantError) -> str:
    if isinstance(error, stepgrant.Denied):
        return error.denial.code.value
    if isinstance(error, stepgrant.Revoked):
        return error.cause
    return error.code


SCENES: Final[Mapping[str, Callable[[Lines], Awaitable[Told]]]] = {
    scene.__name__: scene
    for scene in (
        job,
        other_argument,
        undeclared_tool,
        step_of_get,
        step_of_refund,
        step_of_search,
        step_of_order_77,
        out_of_time,
    )
}

if __name__ == "__main__":
    asyncio.run(main())
