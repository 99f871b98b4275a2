"""The protected order system of the demo, which also says what it sees: told by lines of JSON.

    {"census": bool}   -> as `observed`
{"watch": {"token", "arguments", "workload", "certificate"}}   -> {"accepted"}, then {"refused_ns", "code", "looks"}
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import grpc

sys.path.append(str(Path(__file__).parents[1] / "examples" / "demo"))
from lines import Lines
from observing import Lag, answer
from orders import AUDIENCE, CALLS, Orders
from shop.orders_pb2_grpc import add_OrdersServicer_to_server

from stepgrant.calls import Call
from stepgrant.errors import GrantRefusedError
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.workload import WorkloadApiSource
from stepgrant.verify import GrantInterceptor, TlsHolder, Verifier, server_credentials

SEARCH = "orders.search"


async def main() -> None:
    """Serves until the input ends."""
    source = WorkloadApiSource(os.environ["SPIFFE_ENDPOINT_SOCKET"])
    lines = await Lines.open()
    async with Verifier.connect(
        gateway=os.environ["STEPGRANT_GATEWAY"],
        gateway_id=os.environ["STEPGRANT_GATEWAY_ID"],
        audience=AUDIENCE,
        identity=source,
    ) as verifier:
        server = grpc.aio.server(interceptors=[GrantInterceptor(verifier, CALLS, attest=True)])
        add_OrdersServicer_to_server(Orders(), server)
        port = server.add_secure_port("127.0.0.1:0", server_credentials(source))
        await server.start()
        await verifier.ready()
        lines.say({"listening": f"127.0.0.1:{port}"})
        lag = Lag()
        lag.start()
        while (asked := await lines.hear()) is not None:
            if "watch" in asked:
                await watch(verifier, lines, asked["watch"])
            else:
                answer(lines, lag, asked)
        await server.stop(None)
    source.close()


async def watch(verifier: Verifier, lines: Lines, shown: dict[str, Any]) -> None:
    """Verifies one grant over and over, and lets the loop breathe in between, until it is refused."""
    call = Call(SEARCH, shown["arguments"])
    holder = TlsHolder(parse_spiffe_id(shown["workload"]), bytes.fromhex(shown["certificate"]))
    await verifier.verify(shown["token"], call, holder)
    lines.say({"accepted": True})
    looks = 0
    while True:
        looks += 1
        try:
            await verifier.verify(shown["token"], call, holder)
        except GrantRefusedError as refused:
            at = time.monotonic_ns()
            lines.say({"refused_ns": at, "code": refused.refusal.code.value, "looks": looks})
            return
        await asyncio.sleep(0)


if __name__ == "__main__":
    asyncio.run(main())
