"""The gRPC interceptor: no handler runs but for a call that a live grant covers."""

import contextlib

import grpc
import pytest

from stepgrant.calls import Call, GrpcCalls
from stepgrant.dpop import make_proof
from stepgrant.errors import MisuseError
from stepgrant.feed import ToolSlice
from stepgrant.grant import Binding
from stepgrant.intent import digest
from stepgrant.v1 import verifier_pb2
from stepgrant.verify import current_call
from stepgrant.verify.grpc_server import GrantInterceptor
from stepgrant.verify.resource import Verifier
from stepgrant.verify.verifier import TlsHolder
from tests.kit.enforcement import AGENT, CERTIFICATE, GatewayDouble, ResourceDouble, UpstreamDouble, some_ulid

CALLS = GrpcCalls(
    {"/orders.Orders/Get": "orders.get", "/orders.Orders/List": "orders.list", "/orders.Orders/Put": "orders.put"}
)
TOOLS = tuple(ToolSlice(f"orders.{name}", bytes(32), "pg://{grant_id}") for name in ("get", "list", "put"))
REQUEST = verifier_pb2.RedeemRequest(audience="a", grant_id="ord_1", redemption_id="r")
HEALTH = "/grpc.health.v1.Health/Check"


class FixedPeers:
    """Stands for TLS: unit tests have none, the integration test has."""

    def holder(self, evidence) -> TlsHolder:
        return TlsHolder(AGENT, CERTIFICATE)


class Orders:
    """Handlers that note that they ran, and with what."""

    def __init__(self) -> None:
        self.ran: list[object] = []

    async def get(self, request, context):
        self.ran.append(request)
        self.ran.append(current_call().arguments["grant_id"])
        if request.audience == "raise":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such order")
        if request.audience == "code":
            context.set_code(grpc.StatusCode.NOT_FOUND)
        return verifier_pb2.RedeemResponse(accepted=True)

    async def list(self, request, context):
        self.ran.append(request)
        for _ in range(3):
            yield verifier_pb2.RedeemResponse(reason=current_call().tool)

    async def put(self, requests, context):
        self.ran.append(requests)
        return verifier_pb2.RedeemResponse()

    async def open(self, request, context):
        return verifier_pb2.RedeemResponse(accepted=True)


class Served:
    def __init__(self, channel, gateway, upstream, orders, resource) -> None:
        self.channel, self.gateway, self.upstream, self.orders, self.resource = (
            channel,
            gateway,
            upstream,
            orders,
            resource,
        )

    def grant(self, request=REQUEST, method="/orders.Orders/Get", **changes) -> str:
        call: Call = CALLS.read(method, request)
        fitting = {
            "tool": call.tool,
            "tool_digest": bytes(32),
            "target": f"pg://{request.grant_id}",
            "args_sha256": digest(call.arguments),
        }
        return self.gateway.mint(**{**fitting, **changes})

    async def call(self, *metadata, method="/orders.Orders/Get", request=REQUEST):
        multi = self.channel.unary_unary(
            method,
            request_serializer=verifier_pb2.RedeemRequest.SerializeToString,
            response_deserializer=verifier_pb2.RedeemResponse.FromString,
        )
        return await multi(request, metadata=metadata, timeout=5)

    async def refused(self, *metadata, **how) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(*metadata, **how)
        assert self.orders.ran == []
        return caught.value.code(), dict(caught.value.trailing_metadata()).get("stepgrant-refusal")


@contextlib.asynccontextmanager
async def serving(binding=Binding.MTLS, **options):
    gateway = GatewayDouble(binding=binding)
    resource = ResourceDouble(gateway)
    resource.begin(catalog=(gateway.slice(*TOOLS),))
    upstream, orders = UpstreamDouble(gateway), Orders()
    verifier = Verifier(resource.expected, resource.feed, upstream, gateway.clock, peers=FixedPeers())
    server = grpc.aio.server(interceptors=[GrantInterceptor(verifier, CALLS, **options)])
    parse, serialize = verifier_pb2.RedeemRequest.FromString, verifier_pb2.RedeemResponse.SerializeToString
    handlers = {
        "Get": grpc.unary_unary_rpc_method_handler(orders.get, parse, serialize),
        "Hidden": grpc.unary_unary_rpc_method_handler(orders.get, parse, serialize),
        "List": grpc.unary_stream_rpc_method_handler(orders.list, parse, serialize),
        "Put": grpc.stream_unary_rpc_method_handler(orders.put, parse, serialize),
    }
    health = {"Check": grpc.unary_unary_rpc_method_handler(orders.open, parse, serialize)}
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("orders.Orders", handlers),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Served(channel, gateway, upstream, orders, resource)
    finally:
        await server.stop(None)


async def test_a_covered_call_runs_with_the_very_message_that_was_verified_inv_10():
    """INV-10: the handler's arguments are the verified ones."""
    async with serving() as served:
        assert (await served.call(("stepgrant-grant", served.grant()))).accepted
        assert served.orders.ran == [REQUEST, "ord_1"]


async def test_a_call_without_a_grant_is_refused_and_told_what_to_do():
    async with serving() as served:
        assert await served.refused() == (grpc.StatusCode.UNAUTHENTICATED, "grant_missing")


async def test_two_grants_are_none():
    async with serving() as served:
        grant = ("stepgrant-grant", served.grant())
        assert (await served.refused(grant, grant))[1] == "grant_malformed"


async def test_a_grant_for_other_arguments_is_refused():
    async with serving() as served:
        other = replace_request(REQUEST, redemption_id="x")
        assert await served.refused(("stepgrant-grant", served.grant()), request=other) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "arguments",
        )


def replace_request(request, **changes):
    other = verifier_pb2.RedeemRequest()
    other.CopyFrom(request)
    for name, value in changes.items():
        setattr(other, name, value)
    return other


async def test_a_method_that_is_not_registered_is_refused_with_or_without_a_grant():
    async with serving() as served:
        grant = ("stepgrant-grant", served.grant())
        for metadata in ((), (grant,)):
            for method in ("/orders.Orders/Hidden", "/orders.Orders/Absent", "/other.Other/Get"):
                code, refusal = await served.refused(*metadata, method=method)
                assert (code, refusal) == (grpc.StatusCode.PERMISSION_DENIED, "unregistered_call")


async def test_health_is_open_and_only_what_is_listed():
    async with serving() as served:
        assert (await served.call(method=HEALTH)).accepted
    async with serving(open_methods=()) as served:
        assert (await served.refused(method=HEALTH))[1] == "unregistered_call"


async def test_a_method_cannot_be_open_and_protected():
    async with serving() as served:
        with pytest.raises(MisuseError):
            GrantInterceptor(served.resource, CALLS, open_methods=["/orders.Orders/Get"])


async def test_a_stale_feed_is_unavailable_inv_11():
    """INV-11: feed stale."""
    async with serving() as served:
        served.resource.feed.lose("cut")
        assert await served.refused(("stepgrant-grant", served.grant())) == (grpc.StatusCode.UNAVAILABLE, "feed_stale")


async def test_an_answer_in_parts_is_guarded_by_its_one_request():
    async with serving() as served:
        method = "/orders.Orders/List"
        multi = served.channel.unary_stream(
            method,
            request_serializer=verifier_pb2.RedeemRequest.SerializeToString,
            response_deserializer=verifier_pb2.RedeemResponse.FromString,
        )
        grant = ("stepgrant-grant", served.grant(method=method))
        assert [part.reason async for part in multi(REQUEST, metadata=(grant,), timeout=5)] == ["orders.list"] * 3
        served.orders.ran.clear()
        with pytest.raises(grpc.aio.AioRpcError):
            [part async for part in multi(REQUEST, timeout=5)]
        assert served.orders.ran == []


async def test_a_stream_of_requests_is_refused_though_it_is_registered():
    async with serving() as served:
        multi = served.channel.stream_unary(
            "/orders.Orders/Put", request_serializer=verifier_pb2.RedeemRequest.SerializeToString
        )
        grant = ("stepgrant-grant", served.grant(method="/orders.Orders/Put"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await multi(iter([REQUEST]), metadata=(grant,), timeout=5)
        assert dict(caught.value.trailing_metadata())["stepgrant-refusal"] == "unregistered_call"
        assert served.orders.ran == []


async def test_outcomes_are_attested_when_asked_for():
    async with serving(attest=True) as served:
        await served.call(("stepgrant-grant", served.grant()))
        for audience in ("raise", "code"):
            request = replace_request(REQUEST, audience=audience)
            with pytest.raises(grpc.aio.AioRpcError):
                await served.call(("stepgrant-grant", served.grant(request)), request=request)
        assert [completed for _, completed in served.upstream.attested] == [True, False, False]
        assert served.upstream.attested[0][0] == some_ulid("grant")


async def test_an_audience_bound_by_key_takes_a_dpop_proof_for_this_method():
    authority = "orders.acme.org:443"
    async with serving(Binding.KEY, authority=authority) as served:
        token = served.grant()

        def proof(method: str):
            key, now = served.gateway.instance_key, served.gateway.clock.now()
            htu = f"https://{authority}{method}"
            return ("dpop", make_proof(key, htm="POST", htu=htu, grant=token, now=now, jti=method))

        grant = ("stepgrant-grant", token)
        assert (await served.refused(grant))[1] == "holder"
        assert (await served.refused(grant, proof("/orders.Orders/List")))[1] == "holder"
        assert (await served.call(grant, proof("/orders.Orders/Get"))).accepted


async def test_a_handler_that_is_not_asynchronous_is_misuse():
    async with serving() as served:
        interceptor = GrantInterceptor(served.resource, CALLS)
        for handler in (
            grpc.unary_unary_rpc_method_handler(lambda request, context: None),
            grpc.unary_stream_rpc_method_handler(lambda request, context: iter(())),
        ):

            async def found(_details, handler=handler):
                return handler

            details = type("Details", (), {"method": "/orders.Orders/Get"})()
            with pytest.raises(MisuseError):
                await interceptor.intercept_service(found, details)
