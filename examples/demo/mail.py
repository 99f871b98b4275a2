"""The protected HTTP resource: a mail server under uvicorn, whose routes run under a live grant or not at all."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Final

import uvicorn
from lines import Lines
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from stepgrant import HttpCalls, HttpRoute
from stepgrant.spiffe.workload import WorkloadApiSource
from stepgrant.verify import GrantMiddleware, Verifier, current_call

AUDIENCE: Final = "https://mail.dev.stepgrant.test"
CALLS: Final = HttpCalls(
    [HttpRoute("mail.send", "POST", "/messages"), HttpRoute("mail.read", "GET", "/mailboxes/{mailbox}")]
)


def application(verifier: Verifier) -> Starlette:
    """A mail server, as a company has it. What it sends comes from the verified call (INV-10)."""
    sent: list[dict[str, object]] = []

    async def send(_request: Request) -> JSONResponse:
        sent.append(dict(current_call().arguments))
        return JSONResponse({"number": len(sent)})

    async def read(_request: Request) -> JSONResponse:
        return JSONResponse({"mailbox": current_call().arguments["mailbox"], "messages": []})

    async def health(_request: Request) -> JSONResponse:
        return JSONResponse({"ready": verifier.healthy}, 200 if verifier.healthy else 503)

    return Starlette(
        routes=[
            Route("/messages", send, methods=["POST"]),
            Route("/mailboxes/{mailbox}", read),
            Route("/health", health),
        ]
    )


async def main() -> None:
    """Serves until the input ends."""
    source = WorkloadApiSource(os.environ["SPIFFE_ENDPOINT_SOCKET"])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with Verifier.connect(
            gateway=os.environ["STEPGRANT_GATEWAY"],
            gateway_id=os.environ["STEPGRANT_GATEWAY_ID"],
            audience=AUDIENCE,
            identity=source,
        ) as verifier:
            lines = await Lines.open()
            lines.say({"listening": origin})
            # Whoever asks earlier waits in the listener's queue, and hears that we are ready.
            await verifier.ready()
            app = GrantMiddleware(
                application(verifier),
                verifier=verifier,
                calls=CALLS,
                origin=origin,
                open_paths={"/health"},
                attest=True,
            )
            server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning"))
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            await lines.end()
            server.should_exit = True
            await serving
    source.close()


if __name__ == "__main__":
    asyncio.run(main())
