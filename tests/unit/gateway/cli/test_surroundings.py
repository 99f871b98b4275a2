"""What `stepgrant doctor` finds before it has an identity, and what a gateway that turns it away makes of it."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from stepgrant.errors import InvalidSvidError
from stepgrant_gateway.cli.checks import State
from stepgrant_gateway.cli.exits import Exit
from stepgrant_gateway.cli.surroundings import _accepted, examine
from stepgrant_gateway.rpc.quotas import RATES, Errand
from tests.kit.clock import START
from tests.kit.face import AGENT, Face, serving

GOOD = {
    "STEPGRANT_GATEWAY": "localhost:8443",
    "STEPGRANT_GATEWAY_ID": "spiffe://acme.org/stepgrant",
    "SPIFFE_ENDPOINT_SOCKET": "unix:/nowhere/agent.sock",
}


def test_what_is_not_set_has_failed_for_a_program_and_is_a_warning_for_who_looks_at_files():
    found = list(examine({}, lambda: START))
    beside_files = list(examine({}, lambda: START, required=False))

    assert [(check.name, check.state, check.exit) for check in found] == [
        (name, State.FAILED, Exit.USAGE) for name in GOOD
    ]
    assert {check.state for check in beside_files} == {State.WARNING}
    assert all(f"export {check.name}=" in check.command for check in found)
    assert all("stepgrant dev run" in check.command for check in beside_files)


@pytest.mark.parametrize(
    ("name", "value"), [("STEPGRANT_GATEWAY", "gateway"), ("STEPGRANT_GATEWAY_ID", "spiffe://Acme.org/x")]
)
def test_what_is_set_wrongly_has_failed(name, value):
    found = {check.name: check for check in examine(GOOD | {name: value}, lambda: START)}[name]

    assert (found.state, found.exit) == (State.FAILED, Exit.USAGE)


def test_a_socket_that_is_none_is_the_last_thing_looked_at():
    found = list(examine(GOOD, lambda: START))[-1]

    assert (found.name, found.state, found.exit) == ("Workload API", State.FAILED, Exit.UNAVAILABLE)


@pytest.mark.parametrize(
    ("how", "state", "status", "said"),
    [
        ("taken", State.OK, Exit.OK, "revision 1"),
        ("unverified", State.FAILED, Exit.NOT_ALLOWED, "does not verify"),
        ("overloaded", State.FAILED, Exit.UNAVAILABLE, "too often"),
    ],
)
async def test_whether_the_gateway_takes_us_is_its_first_word_and_opens_no_task(how, state, status, said):
    face = Face()
    if how == "unverified":
        face.peer = InvalidSvidError("the chain does not verify")
    for _ in range(RATES[Errand.OPEN].burst if how == "overloaded" else 0):
        face.quotas.wait(Errand.OPEN, str(AGENT.spiffe_id))

    def ask():
        with grpc.secure_channel(f"127.0.0.1:{face.port}", grpc.local_channel_credentials()) as channel:
            return _accepted(channel, AGENT.spiffe_id)

    async with serving(face):
        found = await asyncio.to_thread(ask)

    assert (found.state, found.exit, said in found.says) == (state, status, True)
    assert face.tasks.requests == []
