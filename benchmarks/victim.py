"""An agent that holds a grant and does nothing more: it is there to be killed."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import stepgrant
from stepgrant.intent import parse_object
from stepgrant.spiffe.workload import WorkloadApiSource


async def main() -> None:
    """Says what it holds, and waits."""
    parameters, arguments = sys.argv[1:]
    source = WorkloadApiSource(os.environ["SPIFFE_ENDPOINT_SOCKET"])
    async with (
        stepgrant.connect(identity=source) as client,
        client.task("Refund", parse_object(parameters)) as task,
        task.step("orders.search", parse_object(arguments), renew=False) as step,
    ):
        print(
            json.dumps({"token": step.grant.token, "certificate": step.holder.identity.leaf_sha256.hex()}), flush=True
        )
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
