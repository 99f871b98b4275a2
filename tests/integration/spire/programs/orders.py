"""The resource: orders behind grants. Says where it listens, when it can verify, and each SVID that it has."""

from __future__ import annotations

import asyncio
import os
import sys

import grpc

from stepgrant.spiffe.workload import WorkloadApiSource
from stepgrant.verify import GrantInterceptor, Verifier, server_credentials
from tests.integration.spire.programs.lines import say, tell_identities
from tests.kit.servers import GRPC_CALLS, Order, handle


async def main() -> None:
    source = WorkloadApiSource(os.environ["SPIFFE_ENDPOINT_SOCKET"])
    gateway, gateway_id = os.environ["STEPGRANT_GATEWAY"], os.environ["STEPGRANT_GATEWAY_ID"]
    tell_identities(source)
    async with Verifier.connect(
        gateway=gateway, gateway_id=gateway_id, audience=sys.argv[1], identity=source
    ) as verifier:
        server = grpc.aio.server(interceptors=[GrantInterceptor(verifier, GRPC_CALLS)])
        handler = grpc.unary_unary_rpc_method_handler(handle, Order.FromString, Order.SerializeToString)
        methods = {"Get": handler, "Refund": handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("orders.Orders", methods),))
        port = server.add_secure_port("127.0.0.1:0", server_credentials(source))
        await server.start()
        say(listening=f"127.0.0.1:{port}")
        await verifier.ready()
        say(ready=True)
        await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
