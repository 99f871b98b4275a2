"""Every kind of feed event has its message, with every field carried over."""

from __future__ import annotations

from datetime import timedelta

import pytest

from stepgrant._wire_strict import refuse_unknown
from stepgrant.grant import Binding
from stepgrant.selector import Selector
from stepgrant_gateway.core.revocation import (
    AnnouncedKey,
    CatalogSlice,
    Checkpoint,
    FeedEvent,
    Heartbeat,
    LiftedLock,
    Lock,
    RevokedGrant,
    Snapshot,
    ToolSlice,
)
from stepgrant_gateway.rpc.wire_feed import watch_event
from tests.kit.clock import START
from tests.kit.face import GRANT, INSTANCE, STEP

KEY = AnnouncedKey("kid", "{}", START, (b"leaf", b"ca"), b"signed")
REVOKED = RevokedGrant(GRANT, "a", START, "completed", START + timedelta(milliseconds=5))
LOCK = Lock(STEP, Selector(workload="spiffe://acme.org/agent", target="pg://*"), "why", START, "spiffe://acme.org/op")
LIFTED = LiftedLock(STEP, Selector(tool="orders.*"), START, START + timedelta(minutes=1))
SLICE = CatalogSlice("a", Binding.KEY, (ToolSlice("orders.get", b"d" * 32, "pg://orders/{order_id}"),))
BEAT = Heartbeat(INSTANCE, START, 9, Checkpoint(INSTANCE, 9, b"h" * 32, (b"leaf",), b"signed"))
SNAPSHOT = Snapshot((KEY,), (REVOKED,), (LOCK,), (LIFTED,), (SLICE,), BEAT)


@pytest.mark.parametrize(
    ("item", "member"),
    [
        (SNAPSHOT, "snapshot"),
        (KEY, "key"),
        (REVOKED, "revoked"),
        (LOCK, "locked"),
        (LIFTED, "lifted"),
        (SLICE, "catalog"),
        (BEAT, "heartbeat"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_event_has_its_message_with_nothing_left_out(item, member):
    message = watch_event(FeedEvent(INSTANCE, 3, 2, item))

    assert message.WhichOneof("event") == member
    refuse_unknown(message)
    part = getattr(message, member)
    assert {field.name for field, _ in part.ListFields()} >= {
        field.name for field in part.DESCRIPTOR.fields if field.name not in {"task_type", "tool"}
    }


def test_times_are_milliseconds():
    message = watch_event(FeedEvent(INSTANCE, 1, 0, REVOKED))

    assert message.revoked.at_unix_ms - message.revoked.expires_unix_ms == 5
