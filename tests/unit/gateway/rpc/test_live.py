"""Calls that stay open, and what ends them."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from stepgrant.errors import InvalidSvidError
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant_gateway.rpc.caller import Caller
from stepgrant_gateway.rpc.live import LiveCalls
from tests.kit.clock import START, ManualClock
from tests.kit.face import AGENT

EVIDENCE = {"x509_pem_cert": [b"leaf"]}


class Scene:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.peer = AGENT
        self.lost: list[str] = []
        self.calls = LiveCalls(self.clock, self.verify)

    def verify(self, evidence):
        assert evidence == EVIDENCE
        if self.peer is None:
            raise InvalidSvidError("no more")
        return self.peer

    def enter(self, peer=AGENT):
        return self.calls.enter(Caller(peer, EVIDENCE), lambda code, reason: self.lost.append(code))


@pytest.fixture
def scene():
    return Scene()


def test_a_call_is_lost_the_moment_its_svid_expires_and_not_before(scene):
    """INV-04: nothing outlives the SVID of its stream."""
    scene.enter()

    scene.clock.advance(timedelta(hours=1) - timedelta(milliseconds=1))
    assert scene.lost == []
    scene.clock.advance(timedelta(milliseconds=1))
    assert scene.lost == ["identity_expired"]
    assert len(scene.calls) == 0


def test_a_call_with_an_svid_that_expired_already_is_lost_at_once(scene):
    scene.enter(dataclasses.replace(AGENT, not_after=START - timedelta(seconds=1)))
    scene.clock.advance(timedelta(0))

    assert scene.lost == ["identity_expired"]


def test_a_call_that_has_left_hears_nothing(scene):
    call = scene.enter()
    call.leave()
    call.leave()
    scene.clock.advance(timedelta(hours=2))
    scene.calls.drain()

    assert scene.lost == []


def test_a_call_is_lost_when_it_stands_for_somebody_else_now(scene):
    """INV-07: a change of identity is a loss of identity."""
    scene.enter()
    scene.peer = dataclasses.replace(AGENT, spiffe_id=parse_spiffe_id("spiffe://acme.org/agent/other"))

    assert scene.calls.verify_again() == 1
    assert scene.lost == ["identity_lost"]


def test_only_calls_that_no_longer_verify_are_lost(scene):
    scene.enter()
    assert scene.calls.verify_again() == 0

    scene.peer = None
    assert scene.calls.verify_again() == 1
    assert scene.calls.verify_again() == 0
    assert scene.lost == ["identity_lost"]


def test_a_drain_ends_all_and_each_hears_it_once(scene):
    scene.enter()
    scene.enter()

    scene.calls.drain()
    scene.calls.drain()
    scene.clock.advance(timedelta(hours=2))

    assert scene.lost == ["draining", "draining"]


def test_an_svid_that_cannot_be_looked_at_is_lost_and_the_others_are_looked_at(scene):
    """INV-11: whatever goes wrong with one, none stays unverified."""
    scene.enter()
    scene.enter()

    def fail(evidence):
        raise ValueError(sorted(evidence))

    scene.verify = fail
    scene.calls._verify = fail
    assert scene.calls.verify_again() == 2
    assert scene.lost == ["identity_lost"] * 2
