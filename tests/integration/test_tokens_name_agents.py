"""Agents that show a JWT-SVID: a real gateway, its second listener, the dev trust domain's Workload API, the real client."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from shutil import copytree
from typing import Any

import grpc
import httpx
import pytest

from stepgrant.errors import DenialCode, Denied
from stepgrant.grant import from_payload
from stepgrant.outgoing.http import HttpAuth
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.probe import grpc_channel_credentials, probe_server
from stepgrant.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    dispatch_pb2,
    dispatch_pb2_grpc,
    operator_pb2,
    operator_pb2_grpc,
    verifier_pb2,
    verifier_pb2_grpc,
)
from stepgrant_gateway.core.events import EventType
from tests.kit.foreign import ForeignSigner
from tests.kit.running import ISSUER, SUPPORT_POLICY, Running, running_gateway
from tests.kit.servers import HTTP_CALLS, MAIL, mail_server
from tests.kit.speakers import RawAgent, RealSpeaker
from tests.kit.tokens import payload_of

PARAMETERS = {"order_id": "ord_00000042", "customer": "jo@example.org"}
MINUTES = timedelta(minutes=5)
SUPPORT = "spiffe://dev.stepgrant.test/agent/support"


async def recorded(running: Running, kind: EventType, count: int) -> list[dict[str, Any]]:
    """The data of the first `count` events of that type, once they are durable."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(10):
        async for record in running.gateway.application.recorder.tail(0, follow=True):
            body = json.loads(record.body)
            if body["type"] == kind.value:
                found.append(body["data"])
            if len(found) == count:
                break
    return found


def of_the_dev_authority(running: Running) -> ForeignSigner:
    """Signs whatever a test wants with the key of the dev trust domain's JWT authority."""
    return ForeignSigner("ES256", running.domain._jwt_key, running.domain._kid)


def claims(**changes: Any) -> dict[str, Any]:
    """Those of a good token of the support agent; a claim that is None is left out."""
    now = int(datetime.now(UTC).timestamp())
    whole = {"sub": SUPPORT, "aud": [ISSUER], "iat": now, "exp": now + 300} | changes
    return {name: value for name, value in whole.items() if value is not None}


@asynccontextmanager
async def bare(running: Running, *, port: int | None = None) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the listener for bearer tokens that shows no certificate."""
    snapshot = await asyncio.to_thread(running.identity("agent/support").current)
    address, gateway = running.bearer_address, parse_spiffe_id(ISSUER)
    pinned = await asyncio.to_thread(probe_server, address.host, address.port, gateway, snapshot, datetime.now(UTC))
    credentials, options = grpc_channel_credentials(snapshot, pinned, show_certificate=False)
    async with grpc.aio.secure_channel(f"{address.host}:{port or address.port}", credentials, options) as channel:
        yield channel


def named(*tokens: str, **more: str) -> tuple[tuple[str, str], ...]:
    """Metadata with these bearer tokens, and more."""
    return (
        *(("authorization", f"Bearer {token}") for token in tokens),
        *((k.replace("_", "-"), v) for k, v in more.items()),
    )


@asynccontextmanager
async def showing(
    running: Running, channel: grpc.aio.Channel, token: str, proven: str | None = None, **more: str
) -> AsyncIterator[RawAgent]:
    """An agent that shows this token, and proves its instance key for it or for another one."""
    call = agent_pb2_grpc.AgentGatewayStub(channel).PerformTask(metadata=named(token, **more))
    try:
        yield RawAgent(RealSpeaker(running), call, sha256((proven or token).encode()).digest(), None)
    finally:
        # Before its channel is closed: a call that is forgotten unfinished takes the interpreter along (grpc.aio).
        call.cancel()


async def turned_away(channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> str:
    """The words of UNAUTHENTICATED."""
    call = agent_pb2_grpc.AgentGatewayStub(channel).PerformTask(metadata=metadata, timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    return str(caught.value.details())


async def test_an_agent_with_a_token_works_at_key_bound_resources_across_rotations_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The task moves to a new stream with each new token; what is bound to a certificate is denied to it.

    No token gets into the ledger or a log.
    """
    caplog.set_level(logging.DEBUG)
    async with running_gateway(jwt_ttl=MINUTES) as running, mail_server(running) as origin:
        client = await running.bearer_client()
        auth = HttpAuth(MAIL, origin, HTTP_CALLS, insecure_http=True)
        changed, loop = asyncio.Event(), asyncio.get_running_loop()
        client.identity.subscribe(lambda: loop.call_soon_threadsafe(changed.set))
        async with (
            client.task("Refund", PARAMETERS) as task,
            httpx.AsyncClient(base_url=origin, auth=auth) as web,
        ):
            shown: dict[bytes, str] = {}
            while len(shown) < 3:
                changed.clear()
                async with task.step("mail.read", {"mailbox": "support"}) as step:
                    assert (await web.get("/mailboxes/support")).text == "mail.read support"
                    identity = step.holder.identity
                    assert identity.jwt_svid is not None
                    shown[identity.credential_sha256] = identity.jwt_svid.token
                    claims = from_payload(payload_of(step.grant.token))
                    assert claims.confirmation == step.holder.instance_key.jkt
                    assert claims.expires_at <= identity.not_after
                running.api.reissue("agent/support")
                await asyncio.wait_for(changed.wait(), 10)
            with pytest.raises(Denied) as denied:
                async with task.step("orders.get", {"order_id": "ord_00000042"}):
                    pass
        assert denied.value.denial.code is DenialCode.CERTIFICATE_REQUIRED
        assert "STEPGRANT_CREDENTIAL=x509" in denied.value.denial.next
        assert (await recorded(running, EventType.TASK_OPENED, 1))[0]["peer_method"] == "jwt"
        taken_up = await recorded(running, EventType.TASK_TAKEN_OVER, 2)
        assert [event["peer_method"] for event in taken_up] == ["jwt", "jwt"]
        tail = running.gateway.application.recorder.tail(0, follow=False)
        written = caplog.text + "".join([record.body.decode() async for record in tail])
        assert [token for token in shown.values() if token.split(".")[2] in written or token[:100] in written] == []


async def test_id_12_tokens_that_break_a_rule_name_nobody_and_are_on_record() -> None:
    """From end to end; each rule alone is in unit/sdk/spiffe/test_jwt.py."""
    async with running_gateway(jwt_ttl=MINUTES) as running, bare(running) as channel:
        ours, stranger = of_the_dev_authority(running), ForeignSigner.of("ES256", running.domain._kid)
        refused = [
            ("no JWT authorities", stranger.sign(claims(sub="spiffe://partner.org/agent/support"))),
            ("signature does not verify", stranger.sign(claims())),
            ("does not hold", ours.sign(claims(aud=["spiffe://dev.stepgrant.test/other"]))),
            ("expired", ours.sign(claims(exp=int(datetime.now(UTC).timestamp()) - 1))),
            ("`exp` is not", ours.sign(claims(exp=None))),
            ("no path", ours.sign(claims(sub="spiffe://dev.stepgrant.test"))),
            ("typ", ours.sign(claims(), typ="wit+jwt")),
        ]
        for why, token in refused:
            assert why in await turned_away(channel, named(token))
        denied = await recorded(running, EventType.IDENTITY_DENIED, len(refused))
        assert {event["method"] for event in denied} == {"/stepgrant.v1.AgentGateway/PerformTask"}
        assert all(token.split(".")[1] not in str(denied) for _, token in refused)


async def test_id_11_nothing_but_the_one_token_names_anybody_on_the_listener_for_tokens() -> None:
    async with running_gateway(jwt_ttl=MINUTES) as running, bare(running) as channel:
        ours = of_the_dev_authority(running)
        good, operator = ours.sign(claims()), ours.sign(claims(sub="spiffe://dev.stepgrant.test/operator/jo"))
        headers = {"x_forwarded_client_cert": f"URI={SUPPORT}", "x_spiffe_id": SUPPORT, "forwarded": f"for={SUPPORT}"}
        assert "0 values" in await turned_away(channel, named(**headers))
        assert "2 values" in await turned_away(channel, named(good, operator))
        assert "2 values" in await turned_away(channel, named(good, good))
        async with showing(running, channel, good, x_spiffe_id="spiffe://dev.stepgrant.test/operator/jo") as agent:
            await agent.open()
        assert (await recorded(running, EventType.TASK_OPENED, 1))[0]["workload"] == SUPPORT


async def test_who_shows_a_token_can_neither_operate_nor_redeem_nor_assign() -> None:
    """Only AgentGateway is served there, whoever the token names."""
    async with running_gateway(jwt_ttl=MINUTES) as running, bare(running) as channel:
        token = of_the_dev_authority(running).sign(claims(sub="spiffe://dev.stepgrant.test/operator/jo"))
        operator = operator_pb2_grpc.OperatorStub(channel).ListTasks
        redeem = verifier_pb2_grpc.GrantVerifierStub(channel).Redeem
        assign = dispatch_pb2_grpc.DispatcherStub(channel).Assign
        for call in (
            operator(operator_pb2.ListTasksRequest(), metadata=named(token)),
            redeem(verifier_pb2.RedeemRequest(), metadata=named(token)),
            assign(dispatch_pb2.AssignRequest(), metadata=named(token)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_proof_at_open_is_over_the_token_that_the_stream_came_with() -> None:
    """INV-08: a stream's token that somebody else got hold of opens nothing with another one's proof."""
    async with running_gateway(jwt_ttl=MINUTES) as running, bare(running) as channel:
        token = of_the_dev_authority(running).sign(claims())
        async with showing(running, channel, token, "another token") as agent:
            await agent.challenged()
            await agent.write(agent_pb2.AgentMessage(request=1, open=agent.opening()))
            assert await agent.status() is grpc.StatusCode.UNAUTHENTICATED


async def test_id_07_a_stream_ends_with_the_token_that_it_came_with_and_the_token_opens_no_other() -> None:
    """INV-04: nothing outlives it."""
    async with running_gateway(jwt_ttl=MINUTES) as running, bare(running) as channel:
        ends = int(datetime.now(UTC).timestamp()) + 2
        token = of_the_dev_authority(running).sign(claims(exp=ends))
        async with showing(running, channel, token) as agent:
            opened = await agent.open()
            assert opened.expires_unix_ms <= ends * 1000
            assert (await agent.hear()).closed.code == "identity_expired"
        assert datetime.now(UTC).timestamp() >= ends
        assert "expired" in await turned_away(channel, named(token))


async def test_id_08_a_jwt_authority_that_leaves_takes_the_streams_along_that_it_vouched_for() -> None:
    async with running_gateway(jwt_ttl=MINUTES) as running, bare(running) as channel:
        token = of_the_dev_authority(running).sign(claims())
        async with showing(running, channel, token) as agent:
            await agent.open()
            running.domain.replace_jwt_authority()
            running.api.reissue()
            assert (await agent.hear()).closed.code == "identity_lost"
        assert "no JWT authority" in await turned_away(channel, named(token))


async def test_a_policy_can_demand_a_certificate(tmp_path: Path) -> None:
    """And its golden cases say so: `peer: jwt`."""
    policy = copytree(SUPPORT_POLICY, tmp_path / "policy")
    wall = """
@id("mail-needs-x509") @reason("Mail is only sent by who shows an X.509-SVID.")
forbid (principal, action == Action::"mail.send", resource)
when { context.peer.method != "x509" };
"""
    with (policy / "walls.cedar").open("a") as walls:
        walls.write(wall)
    case = """
- name: the customer, by an agent that shows a token
  task: {type: Refund, workload: "spiffe://dev.stepgrant.test/agent/support", parameters: {order_id: o, customer: jo@x.org}}
  given: {peer: jwt}
  intent: {tool: mail.send, arguments: {to: [jo@x.org], subject: Your refund, body: It is on its way.}}
  expect: {decision: denied, code: forbidden, policies: [mail-needs-x509]}
"""
    with (policy / "tests" / "mail.yaml").open("a") as cases:
        cases.write(case.replace("order_id: o,", "order_id: ord_00000042,"))
    mail = {"to": ["jo@example.org"], "subject": "Your refund", "body": "It is on its way."}
    async with running_gateway(policy, jwt_ttl=MINUTES) as running:
        async with (await running.bearer_client()).task("Refund", PARAMETERS) as by_token:
            with pytest.raises(Denied) as denied:
                async with by_token.step("mail.send", mail):
                    pass
            assert denied.value.denial.code is DenialCode.FORBIDDEN
            assert "X.509-SVID" in denied.value.denial.reason
        async with (await running.client()).task("Refund", PARAMETERS) as by_certificate:
            async with by_certificate.step("mail.send", mail) as step:
                assert step.grant.token
