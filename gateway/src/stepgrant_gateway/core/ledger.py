"""The ledger's values: records, sealed inputs and data keys, and the one form in which an event is stored (design 7)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NoReturn, cast

from stepgrant.errors import InvalidIdError
from stepgrant.ids import ulid_bytes
from stepgrant.intent import MAX_DEPTH, MAX_SAFE_INTEGER, Json, canonical
from stepgrant.json_text import json_writer
from stepgrant_gateway.core.errors import EventInvalidError, LedgerBrokenError
from stepgrant_gateway.core.events import EVENT_SCHEMA, Event, EventType

LEDGER_TAG: Final = b"stepgrant.ledger.v1\0"
GENESIS: Final = bytes(32)
MAX_BODY_BYTES: Final = 64 * 1024
"""Bytes of one event: what a `LedgerRecord` may carry."""
MAX_INPUT_BYTES: Final = 256 * 1024
"""Bytes of one canonical input: arguments and parameters at their own bounds, and room for the context."""
MAX_DATA_DEPTH: Final = 16
MAX_INPUT_DEPTH: Final = MAX_DEPTH + 4
"""Levels of an input: arguments at their own bound, and what they are wrapped in."""
SALT_BYTES: Final = 32

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_NAMES: Final = frozenset({"schema", "type", "at", "data"})
_written: Final = json_writer(sort_keys=True, ensure_ascii=False)
_AS_IT_IS: Final = frozenset({str, bool, type(None)})
_TYPES: Final = {kind.value: kind for kind in EventType}


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it is stored. `body` is the event's bytes, hashed as they are and never re-serialised."""

    instance_id: str
    sequence: int
    previous_hash: bytes
    hash: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class ChainHead:
    """The end of one chain: sequence (0 = empty) and hash (32 bytes) of its last record."""

    instance_id: str
    sequence: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class SealedInput:
    """The input of one event, encrypted, with its salt *inside*: whoever lacks the key cannot try guesses against the chain.

    `key_id` names the daily data key, `nonce` is 12 bytes, `ciphertext` is AES-256-GCM over salt and canonical input.
    """

    instance_id: str
    sequence: int
    key_id: str
    nonce: bytes
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key for one recipient: `recipient` is SHA-256 over its SubjectPublicKeyInfo, `ciphertext` HPKE (RFC 9180)."""

    recipient: bytes
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class DataKey:
    """A daily data key, wrapped to every recipient. Destroying it makes the inputs of its day unreadable for good."""

    key_id: str
    day: date
    wrapped: tuple[WrappedKey, ...]


@dataclass(frozen=True, slots=True)
class Sealed:
    """What sealing an input gives: the digest for the chain (32 bytes), and what lies beside it (None = not kept)."""

    digest: bytes
    input: SealedInput | None = None
    key: DataKey | None = None


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it was read from a verified chain; its id is (instance, sequence). `input_sha256` None = had no input."""

    instance_id: str
    sequence: int
    event: Event
    input_sha256: bytes | None


def record_hash(instance_id: str, sequence: int, previous_hash: bytes, body: bytes) -> bytes:
    """SHA-256(tag, instance (16 bytes), sequence (u64), previous hash (32 bytes), body): 32 bytes (design 7)."""
    return _hash(chain_tag(instance_id), sequence, previous_hash, body)


def chain_tag(instance_id: str) -> bytes:
    """What the hashes of a chain begin with: tag and instance, the same for each of its records."""
    return LEDGER_TAG + ulid_bytes(instance_id)


def chained(head: ChainHead | Record, body: bytes, tag: bytes | None = None) -> Record:
    """The record that follows `head`; `tag` is that of the chain, from who has it already."""
    sequence = head.sequence + 1
    hashed = _hash(tag or chain_tag(head.instance_id), sequence, head.hash, body)
    return Record(head.instance_id, sequence, head.hash, hashed, body)


def input_digest(salt: bytes, canonical_input: bytes) -> bytes:
    """SHA-256(salt, canonical input): what the chain says of an input. The salt keeps guesses from being tried on it."""
    if len(salt) != SALT_BYTES:
        raise EventInvalidError(f"a salt of {len(salt)} bytes; an input takes {SALT_BYTES} fresh random ones")
    return hashlib.sha256(salt + canonical_input).digest()


def encode_event(event: Event, input_sha256: bytes | None) -> bytes:
    """The bytes that are stored and hashed: JCS of {schema, type, at, data, input_sha256?}.

    `at` is integer microseconds since the Unix epoch; `input_sha256` is 64 lower-case hexadecimal digits.

    Raises:
        EventInvalidError: `data` is not plain JSON without fractions, or the event takes more than MAX_BODY_BYTES.
    """
    document: dict[str, Any] = {
        "schema": EVENT_SCHEMA,
        "type": event.type.value,
        "at": _microseconds(event),
        "data": event.data,
    }
    if input_sha256 is not None:
        document["input_sha256"] = input_sha256.hex()
    body = _data_jcs(document, event)
    if len(body) > MAX_BODY_BYTES:
        raise EventInvalidError(f"{event.type.value} takes {len(body)} bytes, more than {MAX_BODY_BYTES}")
    return body


def decode_event(body: bytes) -> Event:
    """The event that a stored body is, without its input.

    Raises:
        LedgerBrokenError: not one event of this schema; an unknown type or schema stops a fold rather than pass.
    """
    return decode_body(body)[0]


def decode_body(body: bytes) -> tuple[Event, bytes | None]:
    """The event and the digest of its input (32 bytes, None without input).

    Raises:
        LedgerBrokenError: as for `decode_event`.
    """
    if len(body) > MAX_BODY_BYTES:
        raise LedgerBrokenError(f"an event of {len(body)} bytes, more than {MAX_BODY_BYTES}")
    try:
        document = _DECODER.decode(body.decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise LedgerBrokenError("an event that is not JSON in UTF-8") from error
    if not isinstance(document, dict) or document.keys() - {"input_sha256"} != _NAMES:
        raise LedgerBrokenError("an event without exactly schema, type, at and data")
    if type(document["schema"]) is not int or document["schema"] != EVENT_SCHEMA:
        raise LedgerBrokenError(f"an event of schema {str(document['schema'])[:32]}; this version knows {EVENT_SCHEMA}")
    kind = _TYPES.get(document["type"]) if isinstance(document["type"], str) else None
    if kind is None:
        raise LedgerBrokenError(f"an event of unknown type {str(document['type'])[:64]!r}; a newer version wrote it")
    at, data = document["at"], document["data"]
    if type(at) is not int or not 0 <= at <= MAX_SAFE_INTEGER or not isinstance(data, dict):
        raise LedgerBrokenError(f"{kind.value} with `at` or `data` of the wrong type")
    digest = None
    if "input_sha256" in document:
        text = document["input_sha256"]
        if not isinstance(text, str) or len(text) != 64 or text.strip("0123456789abcdef"):
            raise LedgerBrokenError(f"{kind.value} with an `input_sha256` that is not 64 hexadecimal digits")
        digest = bytes.fromhex(text)
    try:
        return Event(kind, _EPOCH + at * _MICROSECOND, data), digest
    except OverflowError:
        raise LedgerBrokenError(f"{kind.value} with `at` beyond the year 9999") from None


def canonical_input(value: Mapping[str, Any]) -> bytes:
    """JCS of an input, at most MAX_INPUT_BYTES.

    Raises:
        EventInvalidError: it is not strict JSON, or larger.
    """
    try:
        text = _jcs(value)
    except (ValueError, ArithmeticError) as error:
        raise EventInvalidError("an input that is not strict JSON") from error
    if len(text) > MAX_INPUT_BYTES:
        raise EventInvalidError(f"an input takes {len(text)} bytes, more than {MAX_INPUT_BYTES}")
    return text


def is_instance(text: object) -> bool:
    """True if this is the id of a gateway instance: a canonical ULID."""
    try:
        return isinstance(text, str) and len(ulid_bytes(text)) == 16
    except InvalidIdError:
        return False


def _hash(tag: bytes, sequence: int, previous_hash: bytes, body: bytes) -> bytes:
    return hashlib.sha256(tag + sequence.to_bytes(8, "big") + previous_hash + body).digest()


def _microseconds(event: Event) -> int:
    if event.at.tzinfo is None:
        raise EventInvalidError(f"{event.type.value} happened at a time without a zone")
    return (event.at - _EPOCH) // _MICROSECOND


def _jcs(value: Mapping[str, Any]) -> bytes:
    """JCS (RFC 8785) of what nests no deeper than it may: few brackets cannot, whatever else stands in strings."""
    try:
        text = canonical(cast("Json", value))
    except (ValueError, RecursionError):
        # Another mapping than a dict, or worse: what can be made plain is, and the rest is refused.
        return canonical(_containers(value, MAX_INPUT_DEPTH))
    if text.count(b"{") + text.count(b"[") > MAX_INPUT_DEPTH:
        _containers(value, MAX_INPUT_DEPTH)
    return text


def _containers(value: Any, depth: int) -> Any:
    if depth == 0:
        raise ValueError("an input nests too deep")
    if isinstance(value, Mapping):
        return {name: _containers(item, depth - 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_containers(item, depth - 1) for item in value]
    if isinstance(value, Decimal) and not value.is_finite():
        raise ValueError("an input holds a number that is not finite")
    return value


def _data_jcs(document: Mapping[str, Any], event: Event) -> bytes:
    try:
        plain = _plain_object(document, MAX_DATA_DEPTH)
        text = _written(plain)
        return text.encode("ascii") if text.isascii() else canonical(plain)
    except ValueError as error:
        raise EventInvalidError(f"{event.type.value}: {error}") from error


def _plain_object(value: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """Plain dicts and lists of what JSON has. Nearly all there is are texts and small integers: they take no call each."""
    if depth == 0:
        raise ValueError(f"`data` nests deeper than {MAX_DATA_DEPTH} levels")
    plain = {}
    for name, item in value.items():
        if type(name) is not str:
            raise ValueError("`data` has a name that is not a string")
        kind = type(item)
        if kind in _AS_IT_IS or (kind is int and -MAX_SAFE_INTEGER <= item <= MAX_SAFE_INTEGER):
            plain[name] = item
        else:
            plain[name] = _plain(item, depth - 1)
    return plain


def _plain(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind in _AS_IT_IS:
        return value
    if kind is int:
        if abs(value) > MAX_SAFE_INTEGER:
            raise ValueError("`data` holds an integer beyond 2^53-1")
        return value
    if kind is dict:
        return _plain_object(value, depth)
    if isinstance(value, list | tuple):
        if depth == 0:
            raise ValueError(f"`data` nests deeper than {MAX_DATA_DEPTH} levels")
        return [_plain(item, depth - 1) for item in value]
    if isinstance(value, Mapping):
        return _plain_object(value, depth)
    raise ValueError(f"`data` holds a {kind.__name__}")


def _once(items: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(items)
    if len(result) != len(items):
        raise ValueError("a name stands there twice")
    return result


def _never(token: str) -> NoReturn:
    raise ValueError(f"{token[:32]} has no place in an event")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_once, parse_float=_never, parse_constant=_never)
