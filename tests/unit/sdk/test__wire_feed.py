"""Feed messages as values: the gateway's own encoder writes them, and what it would never write is refused."""

from datetime import timedelta

import pytest

from stepgrant._wire_feed import to_feed_event
from stepgrant.errors import ProtocolError
from stepgrant.feed import FeedEvent, RevokedGrant
from stepgrant.grant import Binding
from stepgrant.selector import Selector
from stepgrant.v1 import verifier_pb2
from stepgrant_gateway.core import revocation as gateway
from stepgrant_gateway.rpc.wire_feed import watch_event
from tests.kit.clock import START
from tests.kit.enforcement import AUDIENCE, INSTANCE, TOOL, GatewayDouble, lifted, lock, some_ulid

LATER = START + timedelta(milliseconds=1500)
EPOCH = some_ulid("epoch")


def message(item) -> verifier_pb2.WatchEvent:
    return watch_event(gateway.FeedEvent(EPOCH, 2, 1, item))


def value(item):
    event = to_feed_event(message(item))
    assert event == FeedEvent(EPOCH, 2, 1, event.item)
    return event.item


def gateway_checkpoint(double: GatewayDouble) -> gateway.Checkpoint:
    one = double.checkpoint(3)
    return gateway.Checkpoint(one.instance_id, one.sequence, one.hash, one.svid_chain, one.signature)


def test_each_kind_of_event_comes_over_the_wire_as_it_was():
    double = GatewayDouble()
    announced = double.keys.announcements()[0]
    revoked = gateway.RevokedGrant(some_ulid("g"), AUDIENCE, LATER, "completed", START)
    jo = "https://login.acme.test#u-17"
    a_lock = gateway.Lock(
        some_ulid("lock"), Selector(tool="orders.*", subject=jo), "incident 7", START, "spiffe://acme.org/op"
    )
    lifting = gateway.LiftedLock(some_ulid("lock"), Selector(target="pg://*"), START, START + timedelta(minutes=1))
    catalog = gateway.CatalogSlice(
        AUDIENCE, Binding.KEY, (gateway.ToolSlice(TOOL.tool, TOOL.digest, TOOL.target_template),)
    )
    heartbeat = gateway.Heartbeat(INSTANCE, LATER, 7, gateway_checkpoint(double))

    assert value(announced) == double.key(announced)
    assert value(revoked) == RevokedGrant(some_ulid("g"), LATER, "completed", START)
    assert value(a_lock) == lock(Selector(tool="orders.*", subject=jo))
    assert value(lifting) == lifted(Selector(target="pg://*"), START)
    assert value(catalog).tools == (TOOL,)
    assert value(heartbeat).checkpoint == double.checkpoint(3).__class__(
        INSTANCE, 3, heartbeat.checkpoint.hash, heartbeat.checkpoint.svid_chain, heartbeat.checkpoint.signature
    )
    snapshot = value(gateway.Snapshot((announced,), (revoked,), (a_lock,), (lifting,), (catalog,), heartbeat))
    assert (len(snapshot.keys), len(snapshot.revoked), len(snapshot.locks), len(snapshot.lifted)) == (1, 1, 1, 1)
    assert snapshot.heartbeat == value(heartbeat)


REVOKED = gateway.RevokedGrant(some_ulid("g"), AUDIENCE, LATER, "completed", START)


def changed(change) -> verifier_pb2.WatchEvent:
    one = message(REVOKED)
    change(one)
    return one


@pytest.mark.parametrize(
    "broken",
    [
        verifier_pb2.WatchEvent(epoch=EPOCH, position=2, previous_position=1),
        verifier_pb2.WatchEvent.FromString(message(REVOKED).SerializeToString() + b"\xa2\x06\x01x"),
        changed(lambda m: setattr(m, "epoch", "abc")),
        changed(lambda m: setattr(m.revoked, "grant_id", some_ulid("g").lower())),
        changed(lambda m: setattr(m.revoked, "code", "")),
        changed(lambda m: setattr(m.revoked, "code", "x" * 65)),
        changed(lambda m: setattr(m.revoked, "expires_unix_ms", 0)),
        changed(lambda m: setattr(m.revoked, "expires_unix_ms", 2**62)),
        changed(lambda m: m.locked.CopyFrom(m.locked.__class__(lock_id=some_ulid("l")))),
        changed(lambda m: m.heartbeat.SetInParent()),
        changed(lambda m: m.catalog.CopyFrom(verifier_pb2.CatalogSlice(audience="a", binding=0))),
        changed(lambda m: m.catalog.CopyFrom(verifier_pb2.CatalogSlice(audience="a", binding=9))),
        changed(lambda m: m.snapshot.SetInParent()),
        changed(lambda m: m.key.CopyFrom(verifier_pb2.SigningKey(kid="k", jwk_json="{}", not_after_unix_ms=1))),
    ],
)
def test_what_the_protocol_does_not_allow_is_refused_inv_11(broken):
    """INV-11: unknown event, unknown field, anything out of bounds."""
    with pytest.raises(ProtocolError):
        to_feed_event(broken)


def test_a_tool_twice_and_a_template_that_is_none_are_refused():
    tool = verifier_pb2.ToolSlice(tool="a.b", tool_digest=bytes(32), target_template="x://y")
    for tools in ([tool, tool], [verifier_pb2.ToolSlice(tool="a.b", tool_digest=bytes(32), target_template="*")]):
        broken = message(REVOKED)
        broken.catalog.CopyFrom(verifier_pb2.CatalogSlice(audience="a", binding=1, tools=tools))
        with pytest.raises(ProtocolError):
            to_feed_event(broken)
