"""What resources ask of the gateway, on loopback."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import grpc
import pytest

from stepgrant.errors import InvalidSvidError
from stepgrant.v1 import types_pb2, verifier_pb2, verifier_pb2_grpc
from stepgrant_gateway.core.boundary import Outcome
from stepgrant_gateway.core.revocation import FeedEvent, Heartbeat
from tests.kit.clock import START
from tests.kit.face import AGENT, GRANT, INSTANCE, STEP, Face, serving

REDEEM = verifier_pb2.RedeemRequest(audience="mine", grant_id=GRANT, redemption_id=STEP)
ATTEST = verifier_pb2.AttestRequest(audience="mine", grant_id=GRANT, outcome=types_pb2.OUTCOME_FAILED)
BEAT = FeedEvent(INSTANCE, 1, 0, Heartbeat(INSTANCE, START, 7, None))


@pytest.fixture
async def face():
    face = Face()
    async with serving(face) as channel:
        face.stub = verifier_pb2_grpc.GrantVerifierStub(channel)
        yield face


def changed(message, **changes):
    copy = type(message)()
    copy.CopyFrom(message)
    for name, value in changes.items():
        setattr(copy, name, value)
    return copy


def unknown(message):
    return type(message).FromString(message.SerializeToString() + b"\xfa\x07\x01x")


async def test_a_use_is_taken_for_the_verified_caller(face):
    answer = await face.stub.Redeem(REDEEM)

    assert answer.accepted
    assert face.redeeming.asked == [(str(AGENT.spiffe_id), "mine", GRANT, STEP)]


async def test_an_attestation_is_handed_on(face):
    answer = await face.stub.Attest(changed(ATTEST, result_sha256=b"r" * 32))

    assert answer.late
    assert face.redeeming.asked == [(str(AGENT.spiffe_id), "mine", GRANT, Outcome.FAILED, b"r" * 32)]


async def test_an_audience_of_somebody_else_is_permission_denied(face):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await face.stub.Redeem(changed(REDEEM, audience="theirs"))
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await face.stub.Watch(verifier_pb2.WatchRequest(audiences=["theirs"])).read()
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    "request_",
    [
        unknown(REDEEM),
        changed(REDEEM, audience=""),
        changed(REDEEM, grant_id="x"),
        changed(REDEEM, redemption_id=STEP.lower()),
        unknown(ATTEST),
        changed(ATTEST, outcome=0),
        changed(ATTEST, outcome=9),
        changed(ATTEST, result_sha256=b"short"),
    ],
    ids=repr,
)
async def test_what_the_protocol_does_not_allow_is_refused(face, request_):
    method = face.stub.Redeem if isinstance(request_, verifier_pb2.RedeemRequest) else face.stub.Attest
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await method(request_)

    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert face.redeeming.asked == []


@pytest.mark.parametrize(
    "request_",
    [
        verifier_pb2.WatchRequest(),
        verifier_pb2.WatchRequest(audiences=["mine", "mine"]),
        verifier_pb2.WatchRequest(audiences=[str(number) for number in range(65)]),
        verifier_pb2.WatchRequest(audiences=[""]),
        unknown(verifier_pb2.WatchRequest(audiences=["mine"])),
    ],
    ids=["none", "twice", "too many", "empty", "unknown field"],
)
async def test_a_watch_that_the_protocol_does_not_allow_is_refused(face, request_):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await face.stub.Watch(request_).read()

    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_events_are_streamed_until_the_reader_goes(face):
    call = face.stub.Watch(verifier_pb2.WatchRequest(audiences=["mine"]))
    face.feed.subscription.events.put_nowait(BEAT)

    event = await asyncio.wait_for(call.read(), 5)
    call.cancel()

    assert (event.epoch, event.position, event.heartbeat.included_sequence) == (INSTANCE, 1, 7)
    await asyncio.wait_for(face.feed.subscription.closed.wait(), 5)


@pytest.mark.parametrize("why", ["expired", "lost", "drain"])
async def test_a_watch_ends_with_the_identity_of_its_reader(face, why):
    """INV-07: who is no longer proven hears nothing more."""
    call = face.stub.Watch(verifier_pb2.WatchRequest(audiences=["mine"]))
    face.feed.subscription.events.put_nowait(BEAT)
    await asyncio.wait_for(call.read(), 5)

    if why == "expired":
        face.clock.advance(timedelta(hours=1))
    elif why == "lost":
        face.peer = InvalidSvidError("no more")
        face.live.verify_again()
    else:
        face.live.drain()

    wanted = grpc.StatusCode.UNAVAILABLE if why == "drain" else grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await asyncio.wait_for(call.read(), 5)
    assert error.value.code() is wanted
    assert face.feed.subscription.closed.is_set()


async def test_what_waits_for_a_reader_that_is_no_longer_proven_is_not_delivered(face):
    """INV-07: nothing of the feed goes to an identity that was lost before it was written."""
    call = face.stub.Watch(verifier_pb2.WatchRequest(audiences=["mine"]))
    face.feed.subscription.events.put_nowait(BEAT)
    await asyncio.wait_for(call.read(), 5)

    face.clock.advance(timedelta(hours=1))
    face.feed.subscription.events.get_nowait()
    face.feed.subscription.events.put_nowait(BEAT)
    face.feed.subscription.events.put_nowait(None)

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await asyncio.wait_for(call.read(), 5)
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
