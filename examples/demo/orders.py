"""The protected gRPC resource: an order system whose methods run under a live grant or not at all."""

from __future__ import annotations

import asyncio
import os
from decimal import Decimal
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from lines import Lines
from shop import orders_pb2, orders_pb2_grpc

from stepgrant import GrpcCalls
from stepgrant.spiffe.workload import WorkloadApiSource
from stepgrant.verify import GrantInterceptor, Verifier, current_call, server_credentials

AUDIENCE: Final = "spiffe://dev.stepgrant.test/resource/orders"
CALLS: Final = GrpcCalls(
    {
        "/shop.Orders/Get": "orders.get",
        "/shop.Orders/Search": "orders.search",
        "/shop.Orders/Refund": "orders.refund",
    }
)


class Orders(orders_pb2_grpc.OrdersServicer):
    """Three orders. Arguments come from the verified call, never from the request (INV-10)."""

    def __init__(self) -> None:
        self._paid = {
            "ord_00000042": ("jo@x.org", Decimal("40.00")),
            "ord_00000043": ("eve@evil.org", Decimal("900.00")),
            "ord_00000077": ("sam@x.org", Decimal("12.50")),
        }

    async def Get(self, _request: orders_pb2.GetRequest, _context: object) -> orders_pb2.Order:  # noqa: N802 - the name in the protocol
        """One order."""
        return self._order(str(current_call().arguments["order_id"]))

    async def Search(self, _request: orders_pb2.SearchRequest, _context: object) -> orders_pb2.SearchResponse:  # noqa: N802 - as above
        """Orders of a customer, or of a number."""
        query = str(current_call().arguments["query"])
        found = [number for number, (customer, _) in self._paid.items() if query in customer or query in number]
        return orders_pb2.SearchResponse(orders=[self._order(number) for number in found])

    async def Refund(self, _request: orders_pb2.RefundRequest, _context: object) -> orders_pb2.RefundResponse:  # noqa: N802 - as above
        """Money goes back."""
        call = current_call()
        number, amount = str(call.arguments["order_id"]), Decimal(str(call.arguments["amount"]))
        customer, paid = self._paid[number]
        self._paid[number] = (customer, paid - amount)
        return orders_pb2.RefundResponse(receipt=f"{amount} EUR to {customer}")

    def _order(self, number: str) -> orders_pb2.Order:
        customer, paid = self._paid[number]
        return orders_pb2.Order(order_id=number, customer=customer, paid=float(paid))


async def main() -> None:
    """Serves until the input ends."""
    source = WorkloadApiSource(os.environ["SPIFFE_ENDPOINT_SOCKET"])
    async with Verifier.connect(
        gateway=os.environ["STEPGRANT_GATEWAY"],
        gateway_id=os.environ["STEPGRANT_GATEWAY_ID"],
        audience=AUDIENCE,
        identity=source,
    ) as verifier:
        server = grpc.aio.server(interceptors=[GrantInterceptor(verifier, CALLS, attest=True)])
        orders_pb2_grpc.add_OrdersServicer_to_server(Orders(), server)
        health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        await health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        port = server.add_secure_port("127.0.0.1:0", server_credentials(source))
        await server.start()
        lines = await Lines.open()
        lines.say({"listening": f"127.0.0.1:{port}"})
        await verifier.ready()
        await health.set("", health_pb2.HealthCheckResponse.SERVING)
        await lines.end()
        await server.stop(None)
    source.close()


if __name__ == "__main__":
    asyncio.run(main())
