"""An agent that shows a JWT-SVID: reads a mailbox under grants for its key until it cannot, and says each token's digest.

With `held` it reads once, and stays in that step for as long as it lasts.
"""

from __future__ import annotations

import asyncio
import sys

import httpx

import stepgrant
from stepgrant import StepgrantError
from stepgrant.grant import Binding
from stepgrant.outgoing.http import HttpAuth
from tests.integration.spire.programs.agent import TASK, named
from tests.integration.spire.programs.lines import say
from tests.kit.servers import HTTP_CALLS


async def main(audience: str, origin: str, held: str = "") -> None:
    auth = HttpAuth(audience, origin, HTTP_CALLS, insecure_http=True)
    try:
        async with stepgrant.task("Refund", **TASK) as task, httpx.AsyncClient(base_url=origin, auth=auth) as web:
            say(task=task.id)
            try:
                async with task.step("orders.get", {"order_id": TASK["order_id"]}):
                    pass
            except stepgrant.Denied as denied:
                say(denied=denied.denial.code.value)
            while True:
                async with task.step("mail.read", {"mailbox": "support"}) as step:
                    assert step.grant.binding is Binding.KEY
                    (await web.get("/mailboxes/support")).raise_for_status()
                    if held:
                        say(held=step.id)
                        await asyncio.Event().wait()
                say(step=step.holder.identity.credential_sha256.hex())
    except StepgrantError as error:
        say(stopped=named(error), text=str(error))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
