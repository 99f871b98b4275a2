"""An agent that shows a JWT-SVID: reads a mailbox under grants for its key, step after step, and says each token's digest."""

from __future__ import annotations

import asyncio

import stepgrant
from stepgrant.grant import Binding
from tests.integration.spire.programs.agent import TASK
from tests.integration.spire.programs.lines import say


async def main() -> None:
    async with stepgrant.task("Refund", **TASK) as task:
        try:
            async with task.step("orders.get", {"order_id": TASK["order_id"]}):
                pass
        except stepgrant.Denied as denied:
            say(denied=denied.denial.code.value)
        while True:
            async with task.step("mail.read", {"mailbox": "support"}) as step:
                assert step.grant.binding is Binding.KEY
            say(step=step.holder.identity.credential_sha256.hex())


if __name__ == "__main__":
    asyncio.run(main())
