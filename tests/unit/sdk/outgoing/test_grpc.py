"""A grant goes along with calls to its own audience, under the certificate that it is bound to, and with no others."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager

import grpc
import pytest

from stepgrant.calls import GrpcCalls
from stepgrant.client import Client
from stepgrant.errors import Denied, GatewayUnavailableError, GrantRefusedError, MisuseError, Revoked
from stepgrant.grant import Binding
from stepgrant.guard import task
from stepgrant.outgoing.grpc import channel
from stepgrant.testing import GrantRule, ThrowAwayAuthority
from stepgrant.v1 import agent_pb2
from tests.kit.loop import interrupted, settled

ORDERS = "spiffe://test.stepgrant.test/orders"
GET = "/acme.Orders/Get"
LIST = "/acme.Orders/List"
CALLS = GrpcCalls({GET: "orders.get", LIST: "orders.search"})
Message = agent_pb2.Renew


class Resource(grpc.GenericRpcHandler):
    """Answers every call with its own message and remembers what came with it."""

    def __init__(self):
        self.seen = []
        self.refuse = False
        self.renewing = None
        self.peers = []

    def service(self, details):
        handlers = {GET: grpc.unary_unary_rpc_method_handler, LIST: grpc.unary_stream_rpc_method_handler}
        answers = {GET: self._one, LIST: self._many}
        if details.method not in handlers:
            return None
        return handlers[details.method](answers[details.method], Message.FromString, Message.SerializeToString)

    async def _one(self, message, context):
        self.seen.append(dict(context.invocation_metadata()))
        self.peers += context.auth_context()["x509_pem_cert"]
        await self._overtaken(context)
        if self.refuse:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")
        return message

    async def _many(self, message, context):
        self.seen.append(dict(context.invocation_metadata()))
        await self._overtaken(context)
        yield message
        yield message

    async def _overtaken(self, context):
        """The first call finds its grant dead, because the step was renewed while it was on its way."""
        if self.renewing is not None:
            step, self.renewing = self.renewing, None
            await step.renew()
            refusal = (("stepgrant-refusal", "revoked"),)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "revoked: the grant is dead: superseded.", refusal)


@asynccontextmanager
async def serving(gateway, path="orders", resource=None, target="127.0.0.1:0"):
    resource = resource or Resource()
    issued = gateway.authority.issue(path)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((resource,))
    port = server.add_secure_port(
        target,
        grpc.ssl_server_credentials(
            [(issued.key_pem, issued.chain_pem)],
            root_certificates=gateway.authority.root_pem,
            require_client_auth=True,
        ),
    )
    await server.start()
    try:
        yield resource, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def get(opened):
    return opened.unary_unary(GET, Message.SerializeToString, Message.FromString)


def search(opened):
    return opened.unary_stream(LIST, Message.SerializeToString, Message.FromString)


@pytest.fixture
def gateway(gateway):
    gateway.grant("orders.get", GrantRule(audience=ORDERS))
    gateway.grant("orders.search", GrantRule(audience=ORDERS))
    gateway.grant("mail.send", GrantRule(audience="https://mail.acme.org", binding=Binding.KEY))
    return gateway


async def test_inside_a_step_calls_to_its_audience_carry_its_grant(gateway):
    async with serving(gateway) as (resource, target), gateway.client() as client, task("Refund") as opened:
        async with channel(ORDERS, target) as connection, opened.step("orders.get") as step:
            await get(connection)(Message(step_id="x"))
            assert [one async for one in search(connection)(Message(step_id="y"))] == [Message(step_id="y")] * 2
            assert [seen["stepgrant-grant"] for seen in resource.seen] == [step.grant.token] * 2
    assert len(gateway.declared) == 1
    assert client is not None


async def test_inv_8_a_grant_for_another_audience_does_not_go_along(gateway):
    async with serving(gateway) as (resource, target), gateway.client(), task("Refund") as opened:
        async with channel(ORDERS, target) as connection, opened.step("mail.send"):
            await get(connection)(Message(step_id="x"))
    assert "stepgrant-grant" not in resource.seen[0]


async def test_without_a_step_the_call_is_declared_from_the_message_and_reported(gateway):
    async with serving(gateway) as (resource, target), gateway.client(), task("Refund"):
        async with channel(ORDERS, target, calls=CALLS) as connection:
            assert await get(connection)(Message(step_id="x")) == Message(step_id="x")
            assert len([one async for one in search(connection)(Message(step_id="y"))]) == 2
    assert [(one.tool, one.arguments) for one in gateway.declared] == [
        ("orders.get", {"step_id": "x"}),
        ("orders.search", {"step_id": "y"}),
    ]
    assert [one.failed for one in gateway.reported] == [False, False]
    assert all("stepgrant-grant" in seen for seen in resource.seen)


async def test_another_tool_than_the_current_steps_is_declared_as_its_child(gateway):
    async with serving(gateway) as (_, target), gateway.client(), task("Refund") as opened:
        async with channel(ORDERS, target, calls=CALLS) as connection:
            async with opened.step("orders.search") as step:
                await get(connection)(Message(step_id="x"))
    assert [one.parent_step_id for one in gateway.declared] == ["", step.id]


async def test_a_call_that_fails_is_reported_failed(gateway):
    async with serving(gateway) as (resource, target), gateway.client(), task("Refund"):
        resource.refuse = True
        async with channel(ORDERS, target, calls=CALLS) as connection:
            with pytest.raises(grpc.aio.AioRpcError):
                await get(connection)(Message(step_id="x"))
    assert [(one.failed, one.error_class) for one in gateway.reported] == [(True, "AioRpcError")]


async def test_inv_12_a_denied_call_is_not_sent(gateway):
    gateway.deny("orders.get")
    async with serving(gateway) as (resource, target), gateway.client(), task("Refund"):
        async with channel(ORDERS, target, calls=CALLS) as connection:
            with pytest.raises(Denied):
                await get(connection)(Message(step_id="x"))
    assert resource.seen == []


async def test_inv_8_a_grant_that_names_another_audience_than_the_channel_is_not_shown(gateway):
    gateway.grant("orders.get", GrantRule(audience="spiffe://test.stepgrant.test/other"))
    async with serving(gateway) as (resource, target), gateway.client(), task("Refund"):
        async with channel(ORDERS, target, calls=CALLS) as connection:
            with pytest.raises(MisuseError, match="this goes to"):
                await get(connection)(Message(step_id="x"))
    assert resource.seen == []


async def test_inv_8_a_call_shows_the_certificate_that_its_grant_is_bound_to(gateway):
    identity = gateway.identity()
    async with serving(gateway) as (resource, target), Client(gateway.address, gateway.gateway_id, identity) as client:
        async with channel(ORDERS, target, client=client) as connection, task("Refund") as opened:
            held = opened.holder.identity
            async with opened.step("orders.get"):
                identity.become(gateway.authority.snapshot("agent/test"))
                await gateway.until(lambda: gateway.resumed)
                await get(connection)(Message(step_id="x"))
                async with opened.step("orders.get"):
                    await get(connection)(Message(step_id="y"))
    shown = [ssl.PEM_cert_to_DER_cert(pem.decode()) for pem in resource.peers]
    assert shown == [held.chain_der[0], identity.current().chain_der[0]]


async def test_a_grant_bound_to_the_key_comes_with_a_proof(gateway):
    gateway.grant("orders.get", GrantRule(audience=ORDERS, binding=Binding.KEY))
    async with serving(gateway) as (resource, target), gateway.client(), task("Refund") as opened:
        async with channel(ORDERS, target) as connection, opened.step("orders.get"):
            await get(connection)(Message(step_id="x"))
    assert resource.seen[0]["dpop"].count(".") == 2


async def test_a_resource_that_is_somebody_else_is_not_connected_to(gateway):
    async with serving(gateway, "impostor") as (_, target), gateway.client(), task("Refund"):
        with pytest.raises(GatewayUnavailableError, match="did not prove to be"):
            async with channel(ORDERS, target):
                pass


async def test_calls_end_when_the_resource_does_not_verify_any_more_and_no_others_are_sent(gateway):
    class Stalled(Resource):
        async def _many(self, message, context):
            yield message
            await interrupted()

    identity = gateway.identity()
    async with serving(gateway, resource=Stalled()) as (resource, target):
        async with (
            Client(gateway.address, gateway.gateway_id, identity) as client,
            channel(ORDERS, target, client=client) as connection,
        ):
            await get(connection)(Message(step_id="x"))
            answers = search(connection)(Message(step_id="y"))
            assert await answers.read() == Message(step_id="y")
            identity.become(ThrowAwayAuthority("test.stepgrant.test").snapshot("agent/test"))
            with pytest.raises(asyncio.CancelledError):
                await answers.read()
            with pytest.raises(grpc.aio.AioRpcError, match="did not prove to be"):
                await get(connection)(Message(step_id="x"))
    assert len(resource.seen) == 1


async def test_id_08_a_resource_that_rotated_is_proven_anew_and_no_call_fails(gateway):
    """The server of the first certificate is gone; the one at its address proves the same ID by another."""
    async with gateway.client():
        async with serving(gateway) as (_, target):
            opening = channel(ORDERS, target)
            connection = await opening.__aenter__()
            await get(connection)(Message(step_id="x"))
        async with serving(gateway, target=target) as (second, _):
            await settled(lambda: connection.get_state() is not grpc.ChannelConnectivity.READY)
            await get(connection)(Message(step_id="y"))
            assert len(second.seen) == 1
            await opening.__aexit__(None, None, None)


async def test_a_message_that_cannot_be_declared_is_not_sent(gateway):
    async with serving(gateway) as (resource, target), gateway.client(), task("Refund"):
        async with channel(ORDERS, target, calls=CALLS) as connection:
            with pytest.raises(GrantRefusedError):
                await get(connection)(Message.FromString(b"\x98\x06\x01"))
    assert resource.seen == []


async def test_an_audience_that_is_no_spiffe_id_needs_a_server_id(gateway):
    async with gateway.client():
        with pytest.raises(MisuseError, match="server_id="):
            async with channel("https://orders.acme.org", "127.0.0.1:1"):
                pass


async def test_calls_that_their_renewal_overtook_are_made_again_under_the_newer_grant(gateway):
    async with serving(gateway) as (resource, target), gateway.client(), task("Refund") as opened:
        async with channel(ORDERS, target) as connection, opened.step("orders.get") as step:
            resource.renewing = step
            assert await get(connection)(Message(step_id="x")) == Message(step_id="x")
            second = step.grant.token
            resource.renewing = step
            assert len([one async for one in search(connection)(Message(step_id="y"))]) == 2
            third = step.grant.token
    shown = [seen["stepgrant-grant"] for seen in resource.seen]
    assert (shown[1], shown[2], shown[3], len(set(shown))) == (second, second, third, 3)


async def test_a_call_under_a_grant_that_is_dead_for_good_is_not_made_again(gateway):
    class Ended(Resource):
        async def _overtaken(self, context):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no", (("stepgrant-refusal", "revoked"),))

    async with serving(gateway, resource=Ended()) as (resource, target), gateway.client(), task("Refund") as opened:
        async with channel(ORDERS, target) as connection, opened.step("orders.get"):
            with pytest.raises(grpc.aio.AioRpcError):
                await get(connection)(Message(step_id="x"))
            with pytest.raises(grpc.aio.AioRpcError):
                _ = [one async for one in search(connection)(Message(step_id="y"))]
    assert len(resource.seen) == 2


async def test_rv_09_a_stream_of_answers_ends_with_its_step_also_while_none_comes_inv_05(gateway):
    class Stalled(Resource):
        async def _many(self, message, context):
            yield message
            await interrupted()

    async with serving(gateway, resource=Stalled()) as (_, target), gateway.client(), task("Refund"):
        async with channel(ORDERS, target, calls=CALLS) as connection:
            answers = search(connection)(Message(step_id="y"))
            heard = 0
            with pytest.raises(Revoked, match="locked"):
                async for _ in answers:
                    heard += 1
                    await gateway.revoke(gateway.declared[0].step_id)
    assert heard == 1
    assert [(one.failed, one.late) for one in gateway.reported] == [(True, True)]
