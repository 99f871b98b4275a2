"""`stepgrant doctor` in a whole world: Workload API, SVID, gateway by SPIFFE ID, and the two clocks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from stepgrant_gateway.cli.checks import State
from stepgrant_gateway.cli.exits import Exit
from stepgrant_gateway.cli.surroundings import examine
from tests.kit.running import ISSUER, running_gateway

ORDERS = "spiffe://dev.stepgrant.test/resource/orders"


@pytest.fixture
async def running():
    async with running_gateway() as running:
        yield running


async def found(running, identity: str, ahead: timedelta = timedelta(0), audience: str = "", **changes: str):
    environment = {
        "STEPGRANT_GATEWAY": running.address.target,
        "STEPGRANT_GATEWAY_ID": ISSUER,
        "SPIFFE_ENDPOINT_SOCKET": running.api.socket_for(identity),
    }

    def look():
        return list(examine(environment | changes, lambda: datetime.now(UTC) + ahead, audience=audience))

    return {check.name: check for check in await asyncio.to_thread(look)}


async def test_where_all_is_well_every_line_is_ok(running):
    checks = await found(running, "agent/support")

    assert {check.state for check in checks.values()} == {State.OK}
    assert list(checks)[3:] == ["Workload API", "SVID", "bundle", "gateway", "health", "accepted", "clock"]
    assert "agent/support" in checks["accepted"].says


async def test_a_program_that_shows_a_token_is_looked_at_as_one():
    """And where only certificates are taken, that is said of a program that shows none."""
    async with running_gateway(jwt_ttl=timedelta(minutes=5)) as running:
        here = {"STEPGRANT_CREDENTIAL": "jwt", "STEPGRANT_GATEWAY": running.bearer_address.target}
        checks = await found(running, "agent/support", **here)
        assert {check.state for check in checks.values()} == {State.OK}
        assert list(checks)[3:] == ["Workload API", "SVID", "bundle", "JWT-SVID", "gateway", "health", "accepted"]
        wrong = await found(running, "agent/support", STEPGRANT_CREDENTIAL="jwt")
        assert (wrong["health"].state, "gateway.listen_bearer" in wrong["health"].todo) == (State.FAILED, True)


async def test_a_gateway_that_is_somebody_else_has_failed_and_is_asked_nothing(running):
    """INV-11: nothing is said to a server that did not prove its SPIFFE ID."""
    checks = await found(running, "agent/support", STEPGRANT_GATEWAY_ID=ORDERS)

    assert (checks["gateway"].state, checks["gateway"].exit) == (State.FAILED, Exit.UNAVAILABLE)
    assert "accepted" not in checks


@pytest.mark.parametrize(
    ("ahead", "state", "said"),
    [
        (0, State.OK, "the gateway's"),
        (1.2, State.WARNING, "ahead of"),
        (-1.2, State.WARNING, "behind"),
        (9, State.FAILED, "ahead of"),
        (-9, State.FAILED, "behind"),
    ],
)
async def test_a_resource_is_told_how_far_its_clock_is_from_the_gateways(running, ahead, state, said):
    clock = (await found(running, "resource/orders", timedelta(seconds=ahead), ORDERS))["clock"]

    assert (clock.state, said in clock.says) == (state, True)
    assert bool(clock.todo) == (state is not State.OK)


async def test_the_time_of_another_resource_is_not_told(running):
    clock = (await found(running, "agent/support", audience=ORDERS))["clock"]

    assert (clock.state, "not_allowed" in clock.says) == (State.WARNING, True)


async def test_an_svid_whose_successor_is_late_is_a_warning(running):
    checks = await found(running, "agent/support", timedelta(days=2.8))

    assert (checks["SVID"].state, checks["gateway"].state) == (State.WARNING, State.WARNING)


async def test_a_gateway_of_a_trust_domain_that_is_not_known_here_is_not_asked(running):
    """INV-11: nobody here could say whether it is that gateway."""
    checks = await found(running, "agent/support", STEPGRANT_GATEWAY_ID="spiffe://partner.test/gateway")

    gateway = checks["gateway"]
    assert (gateway.state, list(checks)[-1]) == (State.FAILED, "gateway")
    assert "partner.test; what is known here is dev.stepgrant.test" in gateway.says
    assert "spire-server federation list" in gateway.command


async def test_where_nobody_listens_it_says_what_to_start(running):
    checks = await found(running, "agent/support", STEPGRANT_GATEWAY="localhost:1")

    assert checks["gateway"].says == "nobody listens at localhost:1"
    assert checks["gateway"].command == "stepgrant serve --config gateway.toml"


@pytest.mark.parametrize(("identity", "state"), [("gateway", State.OK), ("agent/support", State.FAILED)])
async def test_who_is_the_gateway_is_told_whether_its_svid_has_a_dns_name(running, identity, state):
    checks = await found(running, identity, STEPGRANT_GATEWAY_ID=f"spiffe://dev.stepgrant.test/{identity}")

    assert checks["DNS name"].state is state
