"""The resource for agents without certificates: a mailbox behind grants. Says where it listens, once it can verify."""

from __future__ import annotations

import asyncio
import os
import sys

from stepgrant.spiffe.workload import WorkloadApiSource
from stepgrant.verify import Verifier
from tests.integration.spire.programs.lines import say
from tests.kit.servers import serving_mail


async def main() -> None:
    source = WorkloadApiSource(os.environ["SPIFFE_ENDPOINT_SOCKET"])
    gateway, gateway_id = os.environ["STEPGRANT_GATEWAY"], os.environ["STEPGRANT_GATEWAY_ID"]
    async with Verifier.connect(
        gateway=gateway, gateway_id=gateway_id, audience=sys.argv[1], identity=source
    ) as verifier:
        await verifier.ready()
        async with serving_mail(verifier) as origin:
            say(listening=origin)
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
