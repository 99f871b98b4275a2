"""What the gateway is held against: grpcio alone, with the same TLS, answering as many bytes as it is asked for.

And the floor under it: the same echo, where each other message is first decided by Cedar, signed, and durable, with nothing
of ours around that. What a gateway of Python, Cedar and SQLite takes at least.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any, Final

import cedarpy
import grpc
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from stepgrant.spiffe.workload import WorkloadApiSource
from stepgrant.verify import server_credentials
from stepgrant_gateway.app.writing import WriterThread

STREAM: Final = "/bench.Echo/Stream"
FLOOR: Final = "/bench.Echo/Floor"
UNARY: Final = "/bench.Echo/Unary"
SIZE_BYTES: Final = 4
"""The first bytes of each message: the size of its answer, big-endian."""


class Echo(grpc.GenericRpcHandler):
    """Bytes in, bytes out, no message class in between."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of each method."""
        if handler_call_details.method == STREAM:
            return grpc.stream_stream_rpc_method_handler(self._stream)
        if handler_call_details.method == FLOOR:
            return grpc.stream_stream_rpc_method_handler(self._floor)
        return grpc.unary_unary_rpc_method_handler(self._unary) if handler_call_details.method == UNARY else None

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


async def main() -> None:
    """Serves until the input ends."""
    source = WorkloadApiSource(os.environ["SPIFFE_ENDPOINT_SOCKET"])
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(),))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(source))
    await server.start()
    print(json.dumps({"listening": f"127.0.0.1:{port}"}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)
    source.close()


if __name__ == "__main__":
    asyncio.run(main())
