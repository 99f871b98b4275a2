"""Two trust domains over real mTLS: a partner gets what policy gives it, and its authority speaks for nobody else."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

import stepgrant
from stepgrant.client import Client
from stepgrant.errors import DenialCode, Denied, GatewayUnavailableError
from stepgrant.link import Address
from stepgrant.outgoing.grpc import channel
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.v1 import (
    agent_pb2_grpc,
    dispatch_pb2,
    dispatch_pb2_grpc,
    operator_pb2,
    operator_pb2_grpc,
    verifier_pb2,
    verifier_pb2_grpc,
)
from stepgrant_gateway.identity import refreshing
from tests.faults.waiting import eventually
from tests.kit.ca import IssuedSvid, TestAuthority
from tests.kit.endpoints import Served, bundle_document, endpoint
from tests.kit.foreign import ForeignSigner
from tests.kit.partners import PARTNER, Partners, by_endpoint, partners
from tests.kit.running import ISSUER
from tests.kit.servers import GRPC_CALLS, ORDERS, REFUND, Order, call, orders_server

PARAMETERS = {"order_id": "ord_00000042", "customer": "jo@example.org"}
OUR_AGENT = "spiffe://dev.stepgrant.test/agent/support"
DESK = "spiffe://dev.stepgrant.test/desk/tickets"
OPERATOR = "spiffe://dev.stepgrant.test/operator/jo"


@pytest.fixture
async def site(tmp_path):
    async with partners(tmp_path) as running:
        yield running


async def test_a_partners_agent_gets_what_policy_gives_it_and_nothing_else(site: Partners) -> None:
    client = site.client(of=site.partner)
    async with orders_server(site) as (target, _):
        async with (
            client.task("Refund", PARAMETERS),
            channel(ORDERS, target, calls=GRPC_CALLS, client=client) as opened,
        ):
            assert await call(opened) == "orders.get ord_00000042"
            with pytest.raises(Denied) as denied:
                await call(opened, REFUND, Order(order_id="ord_00000043", amount=40))
        assert denied.value.denial.code is DenialCode.NO_PERMIT
    assert (await site.recorded("task.opened"))["workload"] == f"spiffe://{PARTNER}/agent/support"
    with pytest.raises(Denied):
        async with client.task("Triage", {"mailbox": "support"}):
            pytest.fail("only our own triage agents triage")
    with pytest.raises(Denied) as unnamed:
        async with site.client("agent/other", of=site.partner).task("Refund", PARAMETERS):
            pytest.fail("it has no permit")
    assert unnamed.value.denial.code is DenialCode.NO_PERMIT


async def test_a_bundle_endpoint_lets_the_partner_in_and_takes_it_out_again(tmp_path, monkeypatch, caplog) -> None:
    """By `https_spiffe`, from a bootstrap file, with an authority that rotates and then leaves."""
    monkeypatch.setattr(refreshing, "LEAST", timedelta(milliseconds=10))
    old, new = TestAuthority(PARTNER), TestAuthority(PARTNER)
    (tmp_path / "partner.pem").write_bytes(old.bundle().pem)
    both = bundle_document(old.bundle(), new.bundle(), sequence=1, hint=1)
    with endpoint(old.issue("spire/server"), Served(both)) as served:
        async with partners(tmp_path, new, settings=by_endpoint(served)) as site:
            client = site.client(of=new)
            caplog.set_level("INFO")
            await eventually(lambda: "partner.test has 2 authorities now" in caplog.text)
            async with client.task("Refund", PARAMETERS):
                pass
            lost = asyncio.create_task(_until_lost(client))
            await site.recorded("step.granted")
            served.body = bundle_document(old.bundle(), sequence=2, hint=1)
            with pytest.raises(stepgrant.Revoked) as ended:
                await asyncio.wait_for(lost, 10)
            assert ended.value.cause == "identity_lost"


async def test_id_12_a_partners_token_names_the_partners_agents_and_none_of_ours(tmp_path, caplog) -> None:
    """JWT authorities come with the bundle document, and speak for their own trust domain only."""
    caplog.set_level("INFO")
    partner, signer = TestAuthority(PARTNER), ForeignSigner.of("ES256")
    (tmp_path / "partner.pem").write_bytes(partner.bundle().pem)
    document = bundle_document(partner.bundle(), jwt=[signer])
    with endpoint(partner.issue("spire/server"), Served(document)) as served:
        async with partners(tmp_path, partner, settings=by_endpoint(served)) as site:
            await eventually(lambda: "partner.test has 1 authorities now" in caplog.text)
            target = f"localhost:{site.gateway.bearer_port}"
            stub = agent_pb2_grpc.AgentGatewayStub(await site.showing(None, target, site.source.current()))

            async def first_word(subject: str) -> object:
                now = int(datetime.now(UTC).timestamp())
                token = signer.sign({"sub": subject, "aud": [ISSUER], "iat": now, "exp": now + 300})
                return await stub.PerformTask(metadata=(("authorization", f"Bearer {token}"),), timeout=10).read()

            assert await first_word(f"spiffe://{PARTNER}/agent/support") is not grpc.aio.EOF
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await first_word(OUR_AGENT)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "dev.stepgrant.test" in (await site.recorded("identity.denied"))["reason"]


def forged(site: Partners, spiffe_id: str) -> IssuedSvid:
    """A leaf with one of our IDs, signed by the partner's authority, which TLS lets through."""
    return site.partner.issue(spiffe_id, dns=["localhost"])


async def test_id_01_our_id_signed_by_the_partners_authority_is_nobody_at_the_gateway(site: Partners) -> None:
    """INV-11: TLS lets it through; it is refused before anything is done, with the reason on record."""
    for whose, method in ((OUR_AGENT, _open), (DESK, _assign), (ORDERS, _watch), (OPERATOR, _list)):
        opened = await site.showing(forged(site, whose), f"localhost:{site.gateway.port}", site.source.current())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await method(opened)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert await site.recorded("identity.denied", f"no path leads from the leaf of {whose}")
    assert "task.opened" not in await site.types()


async def test_id_02_the_partners_id_signed_by_another_authority_of_that_name_does_not_even_connect(
    site: Partners,
) -> None:
    namesake = TestAuthority(PARTNER).issue("agent/support")
    opened = await site.showing(namesake, f"localhost:{site.gateway.port}", site.source.current())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _open(opened)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_id_01_our_id_signed_by_the_partners_authority_holds_no_grant_at_a_resource(site: Partners) -> None:
    async with orders_server(site) as (target, _), site.client().task("Refund", PARAMETERS) as task:
        async with task.step("orders.get", {"order_id": "ord_00000042"}) as step:
            server = site.identity("resource/orders").current()
            impostor = await site.showing(forged(site, OUR_AGENT), target, server)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(impostor, grant=step.grant.token)
            assert ("stepgrant-refusal", "holder") in tuple(refused.value.trailing_metadata() or ())
            own = await site.showing(_svid_of(site, "agent/support"), target, server)
            assert await call(own, grant=step.grant.token) == "orders.get ord_00000042"


async def test_a_gateway_or_resource_whose_id_the_partners_authority_signed_is_not_taken_for_it(site: Partners) -> None:
    """The probe judges a server as a server judges a client: by the bundle of the ID's own trust domain."""
    target = await _serving(site, forged(site, ISSUER))
    for of in (site.ours, site.partner):
        identity = site.identity("agent/support", of=of)
        async with Client(Address("localhost", target), parse_spiffe_id(ISSUER), identity) as client:
            with pytest.raises(GatewayUnavailableError, match="no path leads"):
                async with client.task("Refund", PARAMETERS):
                    pytest.fail("it gave itself to an impostor")
    target = await _serving(site, forged(site, ORDERS))
    with pytest.raises(GatewayUnavailableError, match="no path leads"):
        async with channel(ORDERS, f"localhost:{target}", client=site.client()):
            pytest.fail("it gave itself to an impostor")


async def test_a_partners_stream_ends_when_its_authority_leaves_the_bundle_and_ours_goes_on(tmp_path) -> None:
    """Also with an intermediate between: what vouches for the stream is the authority."""
    async with partners(tmp_path, TestAuthority(PARTNER, intermediate=True)) as site:
        theirs, ours = site.client(of=site.partner), site.client()
        async with ours.task("Refund", PARAMETERS) as going_on:
            lost = asyncio.create_task(_until_lost(theirs))
            await site.recorded("step.granted")
            site.trust(TestAuthority(PARTNER).bundle())
            with pytest.raises(stepgrant.Revoked) as ended:
                await asyncio.wait_for(lost, 10)
            assert ended.value.cause == "identity_lost"
            async with going_on.step("orders.get", {"order_id": "ord_00000042"}):
                pass
            with pytest.raises(GatewayUnavailableError):
                async with site.client(of=site.partner).task("Refund", PARAMETERS):
                    pytest.fail("nothing vouches for it any more")


async def _assign(opened: grpc.aio.Channel) -> None:
    await dispatch_pb2_grpc.DispatcherStub(opened).Assign(dispatch_pb2.AssignRequest())


async def _open(opened: grpc.aio.Channel) -> None:
    await agent_pb2_grpc.AgentGatewayStub(opened).PerformTask().read()


async def _watch(opened: grpc.aio.Channel) -> None:
    await verifier_pb2_grpc.GrantVerifierStub(opened).Watch(verifier_pb2.WatchRequest(audiences=[ORDERS])).read()


async def _list(opened: grpc.aio.Channel) -> None:
    await operator_pb2_grpc.OperatorStub(opened).ListTasks(operator_pb2.ListTasksRequest())


async def _until_lost(client: Client) -> None:
    async with client.task("Refund", PARAMETERS) as task, task.step("orders.get", {"order_id": "ord_00000042"}):
        await asyncio.Event().wait()


def _svid_of(site: Partners, path: str) -> IssuedSvid:
    snapshot = site.identity(path).current()
    key = load_pem_private_key(snapshot.private_key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return IssuedSvid(snapshot.chain_der, key)


async def _serving(site: Partners, svid: IssuedSvid) -> int:
    server = grpc.aio.server()
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([(svid.key_pem, svid.chain_pem)]))
    await server.start()
    site.stack.push_async_callback(server.stop, None)
    return port
