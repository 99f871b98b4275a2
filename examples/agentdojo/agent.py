"""The agent: replays calls through the gateway, one run for each line on its standard input.

It behaves as an agent that an injection has taken over: what the attack wants is tried in every task that is open,
and nothing is held back because it was denied before.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import httpx

import stepgrant

AUDIENCE: Final = "https://bank.dev.stepgrant.test"


async def main() -> None:
    """Run after run, until the input ends."""
    lines = asyncio.StreamReader(limit=2**22)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    bank = os.environ["BANK_URL"]
    auth = stepgrant.HttpAuth(AUDIENCE, bank, insecure_http=True)
    async with stepgrant.connect() as client, httpx.AsyncClient(base_url=bank, auth=auth) as http:
        print(json.dumps({"ready": True}), flush=True)
        async for line in lines:
            print(json.dumps(await perform(client, http, json.loads(line))), flush=True)


async def perform(client: Any, http: httpx.AsyncClient, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What became of each call of a run, in order."""
    async with AsyncExitStack() as stack:
        tasks = [
            await stack.enter_async_context(client.task(entry["type"], entry["parameters"])) for entry in run["tasks"]
        ]
        calls = run["calls"]
        outcomes = []
        for index, call in enumerate(calls):
            first = _goal(tasks, calls[index:])
            order = [tasks[first], *tasks[:first], *tasks[first + 1 :]] if call["injected"] else [tasks[first]]
            outcomes.append(await attempt(order, http, call))
        return outcomes


async def attempt(tasks: Sequence[Any], http: httpx.AsyncClient, call: Mapping[str, Any]) -> dict[str, Any]:
    """Declares the call in one task after the other until one is granted, then makes it."""
    outcome: dict[str, Any] = {"declared": [], "granted": False, "executed": False}
    for task in tasks:
        begun = time.perf_counter()
        try:
            async with task.step(f"banking.{call['tool']}", call["arguments"]):
                outcome["declared"].append({"ms": (time.perf_counter() - begun) * 1000, "code": "granted"})
                outcome["granted"] = True
                response = await http.post(f"/tools/{call['tool']}", json=call["arguments"])
                outcome["executed"] = response.status_code == httpx.codes.OK
                if not outcome["executed"]:
                    outcome["refused"] = f"{response.status_code} {response.text[:300]}"
                response.raise_for_status()
                return outcome
        except stepgrant.Denied as denied:
            took = (time.perf_counter() - begun) * 1000
            denial = denied.denial
            outcome["declared"].append({"ms": took, "code": denial.code.value, "reason": denial.reason})
        except httpx.HTTPStatusError:
            return outcome
    return outcome


def _goal(tasks: Sequence[Any], ahead: Sequence[Mapping[str, Any]]) -> int:
    """Which of the open tasks the user's next calls serve: an agent reads for the sake of what it does next."""
    for call in ahead:
        if call["injected"]:
            continue
        tool = f"banking.{call['tool']}"
        offers = [index for index, task in enumerate(tasks) if any(offer.tool == tool for offer in task.tools)]
        if len(offers) < len(tasks):
            return offers[0] if offers else 0
    return len(tasks) - 1 if len(tasks) > 1 else 0


if __name__ == "__main__":
    asyncio.run(main())
