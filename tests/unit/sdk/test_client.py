"""`connect`: what is missing is said by name, and only the gateway that was asked for is talked to."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime

import pytest

from stepgrant.client import Client, connect, instance_key
from stepgrant.errors import (
    ArgumentsInvalidError,
    Denial,
    DenialCode,
    Denied,
    GatewayUnavailableError,
    IdentityUnavailableError,
    MisuseError,
    Revoked,
)
from stepgrant.link import parse_address
from stepgrant.spiffe.ids import SpiffeId
from stepgrant.testing import ScriptedGateway, ThrowAwayAuthority
from tests.kit.loop import interrupted

COMPLETE = {
    "STEPGRANT_GATEWAY": "127.0.0.1:1",
    "STEPGRANT_GATEWAY_ID": "spiffe://acme.org/gateway",
    "SPIFFE_ENDPOINT_SOCKET": "unix:/nowhere.sock",
}


@pytest.mark.parametrize("said", ["JWT", "bearer", "x509 "])
def test_what_the_gateway_is_shown_is_one_of_three(monkeypatch, said):
    for name, value in COMPLETE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STEPGRANT_CREDENTIAL", said)
    with pytest.raises(MisuseError, match=r"STEPGRANT_CREDENTIAL.* set it to x509, jwt or oidc"):
        connect()


def test_an_identity_that_is_given_brings_what_it_shows():
    with pytest.raises(MisuseError, match="leave `credential` out"):
        connect("127.0.0.1:1", "spiffe://acme.org/gateway", identity=object(), credential="jwt")


def test_a_proxy_that_ends_tls_is_no_way_for_a_certificate(monkeypatch):
    for name, value in {**COMPLETE, "STEPGRANT_PROXY_ID": "spiffe://acme.org/proxy"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MisuseError, match="set STEPGRANT_CREDENTIAL to jwt or oidc"):
        connect()
    monkeypatch.setenv("STEPGRANT_PROXY_ID", "https://proxy")
    with pytest.raises(MisuseError, match="STEPGRANT_PROXY_ID"):
        connect()


@pytest.mark.parametrize("missing", COMPLETE)
def test_a_missing_variable_is_named_with_what_to_do(monkeypatch, missing):
    for name, value in COMPLETE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing)
    with pytest.raises(MisuseError, match=rf"{missing} is not set: set it to .*stepgrant dev run"):
        connect()


@pytest.mark.parametrize("text", ["gateway", "gateway:0", "gateway:65536", "https://gateway:1", "a b:1", "gateway:1\n"])
def test_an_address_is_host_and_port(text):
    with pytest.raises(MisuseError, match="host:port"):
        parse_address(text, "the gateway")


def test_an_address_of_ip_6_is_bracketed_for_grpc():
    assert parse_address("[::1]:8443", "x").target == "[::1]:8443"


def test_a_gateway_id_is_a_spiffe_id(monkeypatch):
    with pytest.raises(MisuseError, match="STEPGRANT_GATEWAY_ID"):
        connect("127.0.0.1:1", "gateway", identity=object())


async def test_a_task_is_opened_with_its_parameters_and_the_process_key(gateway):
    async with gateway.client("agent/support") as client:
        async with client.task("Refund", {"order_id": "o"}, purpose="a complaint") as task:
            assert [offer.tool for offer in task.tools] == ["orders.get"]
            assert task.limits.depth == 8
        async with client.task("Refund"):
            pass
    first, second = gateway.opened
    assert (first.parameters, first.purpose) == ({"order_id": "o"}, "a complaint")
    assert first.workload == "spiffe://test.stepgrant.test/agent/support"
    assert first.instance_jkt == second.instance_jkt == instance_key(os.getpid()).jkt


async def test_inv_12_a_task_that_is_denied_is_not_entered_and_says_what_to_do(gateway):
    gateway.deny_open("Refund", Denial(DenialCode.NO_PERMIT, "Nothing permits this.", "Ask an operator."))
    async with gateway.client() as client:
        with pytest.raises(Denied, match=r"task Refund was denied \(no_permit\).*Ask an operator\.") as denied:
            async with client.task("Refund"):
                pytest.fail("the block runs")
    assert denied.value.denial.decision_id


async def test_parameters_that_json_cannot_carry_are_refused_before_anything_is_sent(gateway):
    async with gateway.client() as client:
        with pytest.raises(ArgumentsInvalidError):
            async with client.task("Refund", {"amount": float("nan")}):
                pass
        with pytest.raises(ArgumentsInvalidError, match="more than 16384"):
            async with client.task("Refund", {"note": "x" * 17_000}):
                pass
        with pytest.raises(MisuseError, match="task type"):
            async with client.task("not a name"):
                pass
    assert gateway.opened == []


async def test_a_gateway_of_another_spiffe_id_is_not_talked_to(gateway):
    client = Client(gateway.address, SpiffeId("test.stepgrant.test", "/other"), gateway.identity())
    async with client:
        with pytest.raises(GatewayUnavailableError, match="did not prove to be spiffe://"):
            async with client.task("Refund"):
                pass
    assert gateway.opened == []


async def test_an_impostor_with_the_right_name_from_another_authority_is_not_talked_to(gateway):
    impostor = ThrowAwayAuthority("test.stepgrant.test")
    await gateway.go_away()
    await gateway.serve(impostor.issue("gateway"))
    async with gateway.client() as client:
        with pytest.raises(GatewayUnavailableError):
            async with client.task("Refund"):
                pass


async def test_a_gateway_that_rotated_its_certificate_is_probed_again(gateway):
    async with gateway.client() as client:
        async with client.task("Refund"):
            pass
        await gateway.go_away()
        await gateway.serve()
        async with client.task("Refund"):
            pass
    assert len(gateway.opened) == 2


async def test_a_gateway_that_is_gone_is_unavailable(gateway):
    async with gateway.client() as client:
        await gateway.go_away()
        with pytest.raises(GatewayUnavailableError):
            async with client.task("Refund"):
                pass


async def test_a_step_keeps_the_identity_that_it_was_granted_to_and_its_task_moves_on(gateway):
    identity = gateway.identity()
    async with Client(gateway.address, gateway.gateway_id, identity) as client, client.task("Refund") as old:
        async with old.step("orders.get") as first:
            identity.become(gateway.authority.snapshot("agent/test"))
            await gateway.until(lambda: gateway.resumed)
            async with old.step("orders.get") as second:
                assert first.holder.identity.leaf_sha256 != second.holder.identity.leaf_sha256
            await first.renew()
            assert first.live
        async with client.task("Refund") as new, new.step("orders.get"):
            pass
        assert old.holder.identity.leaf_sha256 == new.holder.identity.leaf_sha256


async def test_tasks_end_when_the_identity_is_gone(gateway):
    identity = gateway.identity()
    async with Client(gateway.address, gateway.gateway_id, identity) as client:
        with pytest.raises(Revoked, match="abandoned"):
            async with client.task("Refund") as task, task.step("orders.get"):
                identity.become(None)
                await interrupted()


async def test_no_identity_no_task(gateway):
    identity = gateway.identity()
    identity.become(None)
    async with Client(gateway.address, gateway.gateway_id, identity) as client:
        with pytest.raises(IdentityUnavailableError):
            async with client.task("Refund"):
                pass


async def test_a_closed_client_opens_nothing(gateway):
    client = gateway.client()
    await client.close()
    with pytest.raises(MisuseError, match="connect anew"):
        async with client.task("Refund"):
            pass


async def test_a_client_is_used_on_the_loop_that_it_belongs_to(gateway):
    async def elsewhere(client):
        async with client.task("Refund"):
            pytest.fail("the task opens")

    async with gateway.client() as client:
        assert client.loop is asyncio.get_running_loop()
        with pytest.raises(MisuseError, match="belongs to another event loop or process"):
            await asyncio.to_thread(asyncio.run, elsewhere(client))


def test_a_workload_api_that_is_no_socket_is_refused_at_once(monkeypatch):
    for name, value in {**COMPLETE, "SPIFFE_ENDPOINT_SOCKET": "/run/spire/agent.sock"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MisuseError, match="SPIFFE_ENDPOINT_SOCKET begins with neither unix: nor tcp:"):
        connect()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"to": "agent/support"}, "write it as spiffe://trust-domain/path"),
        ({"ticket": b"short"}, "a ticket has 32 random bytes"),
        ({"until": datetime(2026, 11, 22)}, "has no time zone"),  # noqa: DTZ001 - that is what is refused
        ({"task_type": "no name"}, "task type"),
        ({"purpose": "p" * 1025}, "shorten it"),
    ],
)
async def test_an_assignment_that_cannot_be_is_not_asked_for(changed, says):
    whole = {"task_type": "Refund", "to": "spiffe://acme.org/agent", "until": datetime(2026, 11, 22, tzinfo=UTC)}
    async with ScriptedGateway() as gateway, gateway.client() as client:
        with pytest.raises(MisuseError, match=says):
            await client.assign(**(whole | changed))
