"""What the gateway is held against: grpcio alone, with the same TLS, answering as many bytes as it is asked for."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any, Final

import grpc

from stepgrant.spiffe.workload import WorkloadApiSource
from stepgrant.verify import server_credentials

STREAM: Final = "/bench.Echo/Stream"
UNARY: Final = "/bench.Echo/Unary"
SIZE_BYTES: Final = 4
"""The first bytes of each message: the size of its answer, big-endian."""


class Echo(grpc.GenericRpcHandler):
    """Bytes in, bytes out, no message class in between."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of the two methods."""
        if handler_call_details.method == STREAM:
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(self._unary) if handler_call_details.method == UNARY else None

    async def _stream(self, _: object, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            await context.write(answer_to(message))

    async def _unary(self, message: bytes, _: object) -> bytes:
        return answer_to(message)


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
