"""A gRPC server that answers with what it is told, and shows whichever SVID the test wants at each connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from tests.kit.ca import IssuedSvid, TestAuthority

SAY, HOLD, TELL, TALK = "/test.Echo/Say", "/test.Echo/Hold", "/test.Echo/Tell", "/test.Echo/Talk"


@asynccontextmanager
async def echo(authority: TestAuthority, shown: Callable[[], IssuedSvid], port: int = 0) -> AsyncIterator[int]:
    """`shown` is asked once for each connection, and once before the first. The port that it listens at on 127.0.0.1."""

    async def say(request: bytes, context: Any) -> bytes:
        return request

    async def hold(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield request
        await asyncio.Event().wait()

    async def tell(requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"".join([request async for request in requests])

    async def talk(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    def configuration() -> grpc.ServerCertificateConfiguration:
        svid = shown()
        return grpc.ssl_server_certificate_configuration([(svid.key_pem, svid.chain_pem)], authority.bundle().pem)

    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Hold": grpc.unary_stream_rpc_method_handler(hold),
        "Tell": grpc.stream_unary_rpc_method_handler(tell),
        "Talk": grpc.stream_stream_rpc_method_handler(talk),
    }
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    credentials = grpc.dynamic_ssl_server_credentials(
        configuration(), configuration, require_client_authentication=True
    )
    bound = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)
