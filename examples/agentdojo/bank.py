"""The bank: AgentDojo's own tool functions over HTTP, each executed under a live grant or not at all.

The run's orchestrator sets and takes the books by lines of JSON on standard input and output; the agent has only HTTP.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Mapping, MutableMapping
from decimal import Decimal
from typing import Any, Final

import uvicorn
from benchmark import Bank, Benchmark

from stepgrant.calls import HttpCalls, HttpRoute
from stepgrant.spiffe.workload import WorkloadApiSource
from stepgrant.verify import GrantMiddleware, Verifier, current_call

AUDIENCE: Final = "https://bank.dev.stepgrant.test"


class Counter:
    """The bank's HTTP side. Tool and arguments come from the verified call, never from the request (INV-10)."""

    def __init__(self, bank: Bank) -> None:
        self._bank = bank

    async def __call__(self, scope: MutableMapping[str, Any], _receive: Any, send: Any) -> None:
        """One request that a grant covers."""
        if scope["type"] != "http":
            return
        call = current_call()
        tool = call.tool.removeprefix("banking.")
        try:
            status, result = (
                200,
                self._bank.execute(tool, {name: _plain(item) for name, item in call.arguments.items()}),
            )
        except ValueError as error:
            status, result = 422, str(error)
        body = json.dumps({"result": result}).encode("utf-8")
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode("ascii"))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def main() -> None:
    """Serve until the orchestrator closes the input."""
    benchmark = Benchmark()
    bank = Bank(benchmark)
    routes = [HttpRoute(f"banking.{tool.name}", "POST", f"/tools/{tool.name}") for tool in benchmark.suite.tools]
    # With the protocol named: asyncio sets TCP_NODELAY only then, and without it each answer waits 40 ms for an ACK.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
        source = WorkloadApiSource(os.environ["SPIFFE_ENDPOINT_SOCKET"])
        async with Verifier.connect(
            gateway=os.environ["STEPGRANT_GATEWAY"],
            gateway_id=os.environ["STEPGRANT_GATEWAY_ID"],
            audience=AUDIENCE,
            identity=source,
        ) as verifier:
            app = GrantMiddleware(Counter(bank), verifier=verifier, calls=HttpCalls(routes), origin=origin, attest=True)
            server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning"))
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            await verifier.ready()
            await talk(bank, origin)
            server.should_exit = True
            await serving
        source.close()


async def talk(bank: Bank, origin: str) -> None:
    """Answer the orchestrator, line by line."""
    lines = asyncio.StreamReader(limit=2**22)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    _say({"listening": origin})
    async for line in lines:
        asked: Mapping[str, Any] = json.loads(line)
        if "load" in asked:
            bank.load(asked["load"])
            _say({"loaded": True})
        else:
            _say({"environment": bank.dump()})


def _say(message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    """Verified numbers as the tool functions take them."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value


if __name__ == "__main__":
    asyncio.run(main())
