"""Messages of `GrantVerifier` as values: the only file that knows both (verifier side)."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from datetime import UTC, datetime, timedelta
from typing import Final

from stepgrant._wire_strict import refuse_unknown
from stepgrant.errors import InvalidInputError, ProtocolError
from stepgrant.feed import (
    MAX_CODE_CHARACTERS,
    MAX_JWK_CHARACTERS,
    MAX_KEYS,
    MAX_KID_CHARACTERS,
    MAX_LIFTED,
    MAX_LOCKS,
    MAX_REASON_CHARACTERS,
    MAX_REVOKED,
    MAX_TOOLS,
    AnnouncedKey,
    CatalogSlice,
    Checkpoint,
    FeedEvent,
    FeedItem,
    Heartbeat,
    LiftedLock,
    LockInForce,
    RevokedGrant,
    Snapshot,
    ToolSlice,
)
from stepgrant.grant import Binding
from stepgrant.ids import parse_tool, parse_ulid
from stepgrant.selector import Selector
from stepgrant.subject import MAX_SUBJECT_ID_CHARACTERS
from stepgrant.target import template_arguments
from stepgrant.v1 import agent_pb2, types_pb2, verifier_pb2

MAX_AUDIENCE_CHARACTERS: Final = 2048
MAX_CHAIN: Final = 8
MAX_CERTIFICATE_BYTES: Final = 16 * 1024
MAX_SIGNATURE_BYTES: Final = 1024
"""RSA of 8,192 bits."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_MS: Final = 253_402_300_799_000
_BINDINGS: Final = {agent_pb2.BINDING_MTLS: Binding.MTLS, agent_pb2.BINDING_KEY: Binding.KEY}


def to_feed_event(message: verifier_pb2.WatchEvent) -> FeedEvent:
    """The event that a message is.

    Raises:
        ProtocolError: an unknown field or event, an id that is not canonical, anything out of bounds. Trust ends with it.
    """
    refuse_unknown(message)
    try:
        epoch = parse_ulid(message.epoch, "the epoch")
        return FeedEvent(epoch, message.position, message.previous_position, _item(message))
    except ProtocolError:
        raise
    except InvalidInputError as error:
        raise ProtocolError(f"an event of the feed is not valid: {error}") from error


def _item(message: verifier_pb2.WatchEvent) -> FeedItem:
    match message.WhichOneof("event"):
        case "snapshot":
            return _snapshot(message.snapshot)
        case "key":
            return _key(message.key)
        case "revoked":
            return _revoked(message.revoked)
        case "locked":
            return _lock(message.locked)
        case "lifted":
            return _lifted(message.lifted)
        case "catalog":
            return _catalog(message.catalog)
        case "heartbeat":
            return _heartbeat(message.heartbeat)
        case _:
            raise ProtocolError("an event of the feed is of no known kind")


def _snapshot(message: verifier_pb2.Snapshot) -> Snapshot:
    _at_most(message.keys, MAX_KEYS, "keys")
    _at_most(message.revoked, MAX_REVOKED, "revoked grants")
    _at_most(message.locks, MAX_LOCKS, "locks")
    _at_most(message.lifted, MAX_LIFTED, "lifted locks")
    _at_most(message.catalog, MAX_KEYS, "catalog slices")
    if not message.HasField("heartbeat"):
        raise ProtocolError("the snapshot of the feed comes without a heartbeat")
    return Snapshot(
        keys=tuple(map(_key, message.keys)),
        revoked=tuple(map(_revoked, message.revoked)),
        locks=tuple(map(_lock, message.locks)),
        lifted=tuple(map(_lifted, message.lifted)),
        catalog=tuple(map(_catalog, message.catalog)),
        heartbeat=_heartbeat(message.heartbeat),
    )


def _key(message: verifier_pb2.SigningKey) -> AnnouncedKey:
    kid = _text(message.kid, MAX_KID_CHARACTERS, "kid")
    jwk = _text(message.jwk_json, MAX_JWK_CHARACTERS, "jwk_json")
    return AnnouncedKey(
        kid, jwk, _time(message.not_after_unix_ms), _chain(message.svid_chain), _signature(message.signature)
    )


def _revoked(message: verifier_pb2.RevokedGrant) -> RevokedGrant:
    return RevokedGrant(
        grant_id=parse_ulid(message.grant_id, "the revoked grant's id"),
        expires_at=_time(message.expires_unix_ms),
        code=_text(message.code, MAX_CODE_CHARACTERS, "code"),
        at=_time(message.at_unix_ms),
    )


def _lock(message: types_pb2.Lock) -> LockInForce:
    return LockInForce(
        parse_ulid(message.lock_id, "the lock's id"),
        _selector(message.selector),
        _text(message.reason, MAX_REASON_CHARACTERS, "reason", empty=True),
    )


def _lifted(message: verifier_pb2.LiftedLock) -> LiftedLock:
    return LiftedLock(
        lock_id=parse_ulid(message.lock_id, "the lifted lock's id"),
        selector=_selector(message.selector),
        refuse_issued_until=_time(message.refuse_issued_until_unix_ms),
        forget_at=_time(message.forget_unix_ms),
    )


def _selector(message: types_pb2.Selector) -> Selector:
    return Selector(
        workload=_text(message.workload, 2048, "selector.workload", empty=True) or None,
        task_type=_text(message.task_type, 128, "selector.task_type", empty=True) or None,
        tool=_text(message.tool, 256, "selector.tool", empty=True) or None,
        target=_text(message.target, 2048, "selector.target", empty=True) or None,
        subject=_text(message.subject, MAX_SUBJECT_ID_CHARACTERS, "selector.subject", empty=True) or None,
    )


def _catalog(message: verifier_pb2.CatalogSlice) -> CatalogSlice:
    _at_most(message.tools, MAX_TOOLS, "tools of an audience")
    binding = _BINDINGS.get(message.binding)
    if binding is None:
        raise ProtocolError("a catalog slice has no known binding")
    tools = tuple(map(_tool, message.tools))
    if len({tool.tool for tool in tools}) != len(tools):
        raise ProtocolError("a catalog slice names a tool twice")
    return CatalogSlice(_text(message.audience, MAX_AUDIENCE_CHARACTERS, "audience"), binding, tools)


def _tool(message: verifier_pb2.ToolSlice) -> ToolSlice:
    template_arguments(message.target_template)
    return ToolSlice(parse_tool(message.tool), _digest(message.tool_digest, "tool_digest"), message.target_template)


def _heartbeat(message: verifier_pb2.Heartbeat) -> Heartbeat:
    return Heartbeat(
        instance_id=parse_ulid(message.instance_id, "the heartbeat's instance"),
        at=_time(message.at_unix_ms),
        included_sequence=message.included_sequence,
        checkpoint=_checkpoint(message.checkpoint) if message.HasField("checkpoint") else None,
    )


def _checkpoint(message: verifier_pb2.Checkpoint) -> Checkpoint:
    return Checkpoint(
        instance_id=parse_ulid(message.instance_id, "the checkpoint's instance"),
        sequence=message.sequence,
        hash=_digest(message.hash, "the checkpoint's hash"),
        svid_chain=_chain(message.svid_chain),
        signature=_signature(message.signature),
    )


def _chain(certificates: Iterable[bytes]) -> tuple[bytes, ...]:
    chain = tuple(certificates)
    if not 1 <= len(chain) <= MAX_CHAIN or any(len(der) > MAX_CERTIFICATE_BYTES for der in chain):
        raise ProtocolError(f"an SVID chain is empty, or more than {MAX_CHAIN} certificates of 16 KiB")
    return chain


def _signature(signature: bytes) -> bytes:
    if not 0 < len(signature) <= MAX_SIGNATURE_BYTES:
        raise ProtocolError(f"a signature is empty or longer than {MAX_SIGNATURE_BYTES} bytes")
    return signature


def _digest(value: bytes, what: str) -> bytes:
    if len(value) != 32:
        raise ProtocolError(f"{what} is not 32 bytes")
    return value


def _text(value: str, limit: int, what: str, *, empty: bool = False) -> str:
    if len(value) > limit or not (value or empty):
        raise ProtocolError(f"{what} is empty or longer than {limit} characters")
    return value


def _time(milliseconds: int) -> datetime:
    if not 0 < milliseconds <= _MAX_MS:
        raise ProtocolError("a time of the feed is out of range")
    return _EPOCH + timedelta(milliseconds=milliseconds)


def _at_most(items: Sized, limit: int, what: str) -> None:
    if len(items) > limit:
        raise ProtocolError(f"more than {limit} {what} in one message")
