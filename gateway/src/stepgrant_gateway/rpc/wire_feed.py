"""Values of the feed, written as messages."""

from __future__ import annotations

from stepgrant.selector import Selector
from stepgrant.v1 import types_pb2, verifier_pb2
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
)
from stepgrant_gateway.rpc.wire import binding, millis


def watch_event(event: FeedEvent) -> verifier_pb2.WatchEvent:
    """One event of one subscription."""
    message = verifier_pb2.WatchEvent(
        epoch=event.epoch, position=event.position, previous_position=event.previous_position
    )
    match event.item:
        case Snapshot():
            message.snapshot.CopyFrom(_snapshot(event.item))
        case AnnouncedKey():
            message.key.CopyFrom(_key(event.item))
        case RevokedGrant():
            message.revoked.CopyFrom(_revoked(event.item))
        case Lock():
            message.locked.CopyFrom(lock(event.item))
        case LiftedLock():
            message.lifted.CopyFrom(_lifted(event.item))
        case CatalogSlice():
            message.catalog.CopyFrom(_slice(event.item))
        case Heartbeat():
            message.heartbeat.CopyFrom(_heartbeat(event.item))
    return message


def lock(value: Lock) -> types_pb2.Lock:
    """A lock in force."""
    return types_pb2.Lock(
        lock_id=value.lock_id,
        selector=selector(value.selector),
        reason=value.reason,
        issued_unix_ms=millis(value.issued_at),
        issued_by=value.issued_by,
    )


def selector(value: Selector) -> types_pb2.Selector:
    """The selector of a lock; what is not set is empty."""
    return types_pb2.Selector(
        workload=value.workload or "",
        task_type=value.task_type or "",
        tool=value.tool or "",
        target=value.target or "",
        subject=value.subject or "",
    )


def _snapshot(value: Snapshot) -> verifier_pb2.Snapshot:
    return verifier_pb2.Snapshot(
        keys=[_key(item) for item in value.keys],
        revoked=[_revoked(item) for item in value.revoked],
        locks=[lock(item) for item in value.locks],
        lifted=[_lifted(item) for item in value.lifted],
        catalog=[_slice(item) for item in value.catalog],
        heartbeat=_heartbeat(value.heartbeat),
    )


def _key(value: AnnouncedKey) -> verifier_pb2.SigningKey:
    return verifier_pb2.SigningKey(
        kid=value.kid,
        jwk_json=value.jwk_json,
        not_after_unix_ms=millis(value.not_after),
        svid_chain=value.svid_chain,
        signature=value.signature,
    )


def _revoked(value: RevokedGrant) -> verifier_pb2.RevokedGrant:
    return verifier_pb2.RevokedGrant(
        grant_id=value.grant_id,
        expires_unix_ms=millis(value.expires_at),
        code=value.code,
        at_unix_ms=millis(value.at),
    )


def _lifted(value: LiftedLock) -> verifier_pb2.LiftedLock:
    return verifier_pb2.LiftedLock(
        lock_id=value.lock_id,
        selector=selector(value.selector),
        refuse_issued_until_unix_ms=millis(value.refuse_issued_until),
        forget_unix_ms=millis(value.forget_at),
    )


def _slice(value: CatalogSlice) -> verifier_pb2.CatalogSlice:
    return verifier_pb2.CatalogSlice(
        audience=value.audience,
        binding=binding(value.binding),
        tools=[
            verifier_pb2.ToolSlice(tool=tool.tool, tool_digest=tool.digest, target_template=tool.target_template)
            for tool in value.tools
        ],
    )


def _heartbeat(value: Heartbeat) -> verifier_pb2.Heartbeat:
    return verifier_pb2.Heartbeat(
        instance_id=value.instance_id,
        at_unix_ms=millis(value.at),
        included_sequence=value.included_sequence,
        checkpoint=None if value.checkpoint is None else _checkpoint(value.checkpoint),
    )


def _checkpoint(value: Checkpoint) -> verifier_pb2.Checkpoint:
    return verifier_pb2.Checkpoint(
        instance_id=value.instance_id,
        sequence=value.sequence,
        hash=value.hash,
        svid_chain=value.svid_chain,
        signature=value.signature,
    )
