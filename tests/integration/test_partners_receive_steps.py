"""Steps are handed on to a partner's trust domain: to whom policy names there, and to nobody whom its authority only says so of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from stepgrant.client import Client
from stepgrant.errors import DenialCode, Denied, IdentityUnavailableError
from stepgrant.handed import HandOff
from stepgrant.link import Address
from stepgrant.outgoing.grpc import channel
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.source import JwtSvid
from stepgrant.step import Step
from stepgrant.tasks import Task
from stepgrant.v1 import agent_pb2_grpc
from tests.faults.waiting import eventually
from tests.kit.ca import FixedSource, TestAuthority
from tests.kit.endpoints import Served, bundle_document, endpoint
from tests.kit.foreign import ForeignSigner
from tests.kit.partners import PARTNER, Partners, by_endpoint, partners
from tests.kit.running import ISSUER
from tests.kit.servers import GRPC_CALLS, ORDERS, REFUND, Order, call, orders_server

WORDS: dict[str, Any] = {"order_id": "ord_00000042", "customer": "jo@x.org"}
OURS, THEIRS = "spiffe://dev.stepgrant.test/agent/support", f"spiffe://{PARTNER}/agent/support"
PAYMENTS = "spiffe://dev.stepgrant.test/agent/payments"
BOUNDS = {"orders.get": {"order_id": {"exact": "ord_00000042"}}}
PERMITS = f"""
@id("support-hands-on-and-both-receive")
permit (principal is Task::Refund, action == Action::"task.hand_off", resource)
when {{ context.hand_off.from in Workload::"{OURS}" }}
when {{ context.hand_off.to in Workload::"{THEIRS}" || context.hand_off.to in Workload::"{PAYMENTS}" }};
"""


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Partners]:
    async with partners(tmp_path, permits=PERMITS) as running:
        yield running


@asynccontextmanager
async def by_token(site: Partners, signer: ForeignSigner, spiffe_id: str) -> AsyncIterator[Client]:
    """The client of a workload of the partner's that shows a token which says this of it, at the listener for tokens."""
    now = datetime.now(UTC)
    until = now + timedelta(minutes=5)
    claims = {"sub": spiffe_id, "aud": [ISSUER], "iat": int(now.timestamp()), "exp": int(until.timestamp())}
    svid = JwtSvid(parse_spiffe_id(spiffe_id), until, signer.sign(claims))
    snapshot = replace(site.identity("agent/payments", of=site.partner).current(), jwt_svid=svid)
    assert site.gateway.bearer_port is not None
    address = Address("localhost", site.gateway.bearer_port)
    async with Client(address, parse_spiffe_id(ISSUER), FixedSource(snapshot)) as client:
        yield client


async def refund(site: Partners, target: str, task: Task) -> Step:
    """A live refund, which policy gives to who has read the order."""
    async with channel(ORDERS, target, calls=GRPC_CALLS, client=site.client()) as opened:
        assert await call(opened) == "orders.get ord_00000042"
    step = task.step("orders.refund", {"order_id": "ord_00000042", "amount": 40})
    await step.begin()
    return step


async def test_a_partners_agent_works_on_a_branch_of_our_task_and_hands_nothing_further(site: Partners) -> None:
    theirs = site.client(of=site.partner)
    async with orders_server(site) as (target, _), site.client().task("Refund", WORDS) as task:
        step = await refund(site, target, task)
        handed = await step.hand_off(THEIRS, BOUNDS)
        async with (
            theirs.task(HandOff.read(handed.slip())) as branch,
            channel(ORDERS, target, calls=GRPC_CALLS, client=theirs) as opened,
        ):
            assert (branch.id, branch.branch_id) == (task.id, handed.id)
            assert await call(opened) == "orders.get ord_00000042"
            with pytest.raises(Denied) as wider:
                await call(opened, REFUND, Order(order_id="ord_00000042", amount=40))
            assert wider.value.denial.code is DenialCode.OUTSIDE_ENVELOPE
            async with branch.step("orders.get", {"order_id": "ord_00000042"}) as reading:
                with pytest.raises(Denied) as further:
                    await reading.hand_off(PAYMENTS, BOUNDS)
                assert further.value.denial.code is DenialCode.OUTSIDE_ENVELOPE
        await step.finish(None)


async def test_id_01_our_id_signed_by_the_partners_authority_opens_no_branch_and_uses_nothing_up(
    site: Partners,
) -> None:
    forged = site.partner.issue(PAYMENTS, dns=["localhost"])
    async with orders_server(site) as (target, _), site.client().task("Refund", WORDS) as task:
        step = await refund(site, target, task)
        handed = await step.hand_off(PAYMENTS, BOUNDS)
        opened = await site.showing(forged, f"localhost:{site.gateway.port}", site.source.current())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await agent_pb2_grpc.AgentGatewayStub(opened).PerformTask().read()
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert await site.recorded("identity.denied", f"no path leads from the leaf of {PAYMENTS}")
        with pytest.raises(Denied) as namesake:
            async with site.client("agent/payments", of=site.partner).task(handed):
                pytest.fail("the partner's payments are not ours")
        assert namesake.value.denial.code is DenialCode.HAND_OFF_REFUSED
        async with site.client("agent/payments").task(handed) as branch:
            assert branch.branch_id == handed.id
        await step.finish(None)


async def test_id_01_our_id_in_a_token_by_the_partners_authority_opens_no_branch_and_uses_nothing_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On the listener for tokens, where the partner's own payments are let in: they are just not whom it names."""
    caplog.set_level("INFO")
    partner, signer = TestAuthority(PARTNER), ForeignSigner.of("ES256")
    (tmp_path / "partner.pem").write_bytes(partner.bundle().pem)
    document = bundle_document(partner.bundle(), jwt=[signer])
    with endpoint(partner.issue("spire/server"), Served(document)) as served:
        async with (
            partners(tmp_path, partner, settings=by_endpoint(served), permits=PERMITS) as site,
            orders_server(site) as (target, _),
            site.client().task("Refund", WORDS) as task,
        ):
            await eventually(lambda: "partner.test has 1 authorities now" in caplog.text)
            step = await refund(site, target, task)
            handed = await step.hand_off(PAYMENTS, BOUNDS)
            theirs = PAYMENTS.replace("dev.stepgrant.test", PARTNER)
            async with by_token(site, signer, theirs) as client:
                with pytest.raises(Denied) as namesake:
                    async with client.task(handed):
                        pytest.fail("the partner's payments are not ours")
            assert namesake.value.denial.code is DenialCode.HAND_OFF_REFUSED
            async with by_token(site, signer, PAYMENTS) as client:
                with pytest.raises(IdentityUnavailableError):
                    async with client.task(handed):
                        pytest.fail("the partner's authority speaks for nobody of ours")
            assert "dev.stepgrant.test" in (await site.recorded("identity.denied"))["reason"]
            async with site.client("agent/payments").task(handed) as branch:
                assert branch.branch_id == handed.id
            await step.finish(None)
