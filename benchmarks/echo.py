"""What the gateway is held against: grpcio alone, with the same TLS, answering as many bytes as it is asked for.

And the floor under it: the same echo, where each other message is first decided by Cedar, signed, and durable, with nothing
of ours around that. What a gateway of Python, Cedar and SQLite takes at least.

Two methods first verify who calls, as the gateway does: what that takes is their distance to the one that does not.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import cedarpy
import grpc
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from stepgrant.spiffe.bundles import BundleSet
from stepgrant.spiffe.workload import WorkloadApiSource
from stepgrant.verify import server_credentials
from stepgrant_gateway.app.writing import WriterThread
from stepgrant_gateway.identity.peers import PeerVerifier

STREAM: Final = "/bench.Echo/Stream"
FLOOR: Final = "/bench.Echo/Floor"
UNARY: Final = "/bench.Echo/Unary"
VERIFIED: Final = "/bench.Echo/Verified"
"""Who calls is verified, or remembered as such: `PeerVerifier`."""
VERIFIED_ANEW: Final = "/bench.Echo/VerifiedAnew"
"""The same, and nobody is remembered."""
SIZE_BYTES: Final = 4
"""The first bytes of each message: the size of its answer, big-endian."""


class Echo(grpc.GenericRpcHandler):
    """Bytes in, bytes out, no message class in between. `bundles`: what callers are verified against."""

    def __init__(self, bundles: Callable[[], BundleSet]) -> None:
        self._known = PeerVerifier(bundles, _now)
        self._strangers = PeerVerifier(bundles, _now, max_cached=0)
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            STREAM: grpc.stream_stream_rpc_method_handler(self._stream),
            FLOOR: grpc.stream_stream_rpc_method_handler(self._floor),
            UNARY: grpc.unary_unary_rpc_method_handler(self._unary),
            VERIFIED: grpc.unary_unary_rpc_method_handler(self._verified),
            VERIFIED_ANEW: grpc.unary_unary_rpc_method_handler(self._verified_anew),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of each method."""
        return self._handlers.get(handler_call_details.method)

    async def _stream(self, _: object, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            await context.write(answer_to(message))

    async def _floor(self, _: object, context: Any) -> None:
        floor = Floor()
        while (message := await context.read()) is not grpc.aio.EOF:
            await floor.grant()
            await context.write(answer_to(message))
            message = await context.read()
            if message is not grpc.aio.EOF:
                await context.write(answer_to(message))

    async def _unary(self, message: bytes, _: object) -> bytes:
        return answer_to(message)

    async def _verified(self, message: bytes, context: Any) -> bytes:
        self._known.verify(context.auth_context(), context.invocation_metadata() or ())
        return answer_to(message)

    async def _verified_anew(self, message: bytes, context: Any) -> bytes:
        self._strangers.verify(context.auth_context(), context.invocation_metadata() or ())
        return answer_to(message)


ROW_BYTES: Final = 1500
"""About a decision's record with its sealed input."""
CLAIMS_BYTES: Final = 900
"""About what is signed of a grant."""


class Floor:
    """One decision after the other, of the libraries that the gateway is made of."""

    def __init__(self) -> None:
        self._thread = WriterThread("floor")
        path = Path("floor.db")
        path.unlink(missing_ok=True)
        self._rows = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "CREATE TABLE rows (row BLOB)"):
            self._rows.execute(statement).fetchone()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._policies = cedarpy.PolicySet.from_str("permit (principal, action, resource);")
        self._entities = cedarpy.Entities.from_json_str("[]")
        self._request = {"principal": 'T::"t"', "action": 'Action::"a"', "resource": 'R::"r"', "context": "{}"}

    async def grant(self) -> None:
        """Decides, signs while a thread of its own makes it durable, and waits for that."""
        answer = cedarpy.is_authorized(self._request, self._policies, self._entities)
        if answer.decision is not cedarpy.Decision.Allow:
            raise RuntimeError(f"not allowed: {answer.diagnostics.errors}")
        loop = asyncio.get_running_loop()
        durable = loop.create_future()
        self._thread.submit(loop, self._commit, durable.set_result)
        self._key.sign(bytes(CLAIMS_BYTES), ec.ECDSA(hashes.SHA256()))
        failed = await durable
        if failed is not None:
            raise RuntimeError("not durable") from failed

    def _commit(self) -> None:
        self._rows.execute("INSERT INTO rows VALUES (?)", (bytes(ROW_BYTES),))


def answer_to(message: bytes) -> bytes:
    """As long as the message wants it."""
    return bytes(int.from_bytes(message[:SIZE_BYTES], "big"))


def _now() -> datetime:
    return datetime.now(UTC)


async def main() -> None:
    """Serves until the input ends."""
    source = WorkloadApiSource(os.environ["SPIFFE_ENDPOINT_SOCKET"])
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(lambda: source.current().bundles),))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(source))
    await server.start()
    print(json.dumps({"listening": f"127.0.0.1:{port}"}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)
    source.close()


if __name__ == "__main__":
    asyncio.run(main())
