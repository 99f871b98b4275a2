"""The one form in which an event is stored."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from types import MappingProxyType

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from stepgrant.intent import MAX_DEPTH, canonical, parse_object
from stepgrant_gateway.core.errors import EventInvalidError, LedgerBrokenError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.ledger import (
    MAX_BODY_BYTES,
    MAX_DATA_DEPTH,
    MAX_INPUT_DEPTH,
    canonical_input,
    decode_body,
    decode_event,
    encode_event,
    input_digest,
    record_hash,
)
from tests.kit.chains import INSTANCE, granted
from tests.kit.clock import START


class Word(str, Enum):  # noqa: UP042 - what an encoder of JSON takes for a str
    """No plain str."""

    ONE = "one"


class Number(IntEnum):
    """No plain int."""

    ONE = 1


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda below: (
        st.lists(below, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), below, max_size=4)
    ),
    max_leaves=12,
)


FRACTIONS = st.floats(-(2**53) + 1, 2**53 - 1).map(lambda number: Decimal(repr(number)))
WITH_NUMBERS = st.recursive(
    FRACTIONS | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(exclude_categories=["Cs"])) | st.none(),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text("ab\U0001f600\ufb33"), below, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), PLAIN, max_size=5))
def test_a_body_is_the_jcs_form_of_its_event_and_reads_back_as_the_same_event(data):
    event = Event(EventType.STEP_DENIED, START, data)
    body = encode_event(event, None)
    at = int(START.timestamp() * 1_000_000)
    assert body == rfc8785.dumps({"schema": 1, "type": "step.denied", "at": at, "data": data})
    assert decode_event(body) == event


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), WITH_NUMBERS, max_size=5))
def test_an_input_is_in_its_jcs_form_whatever_its_numbers_and_names(value):
    assert canonical_input(value) == rfc8785.dumps(doubles(value))


def doubles(value):
    """The same value with its numbers as ECMAScript has them."""
    if isinstance(value, dict):
        return {name: doubles(item) for name, item in value.items()}
    if isinstance(value, list):
        return [doubles(item) for item in value]
    return float(value) if isinstance(value, Decimal) else value


def test_an_input_of_other_mappings_and_sequences_is_written_like_one_of_dicts_and_lists():
    value = MappingProxyType({"b": (Decimal("1.5"), MappingProxyType({"c": ()})), "a": None})
    assert canonical_input(value) == b'{"a":null,"b":[1.5,{"c":[]}]}'


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("Infinity"), b"bytes", {1, 2}, "\ud800", {"x": "\ud800"}])
def test_an_input_that_is_not_json_is_refused(value):
    with pytest.raises(EventInvalidError, match="not strict JSON"):
        canonical_input({"arguments": {"x": value}})


def test_an_input_may_hold_many_lists_but_not_deep_ones():
    wide = {"lists": [["[", "{"]] * (2 * MAX_INPUT_DEPTH), "brackets": "[" * 100}
    assert canonical_input(wide) == rfc8785.dumps(wide)
    assert canonical_input(nested(MAX_INPUT_DEPTH - 1, "x")) == rfc8785.dumps(nested(MAX_INPUT_DEPTH - 1, "x"))
    with pytest.raises(EventInvalidError):
        canonical_input(nested(MAX_INPUT_DEPTH, "x"))


def test_arguments_as_deep_as_they_may_be_fit_into_an_input():
    deepest = parse_object('{"x":' + "[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH + "}")
    assert canonical_input({"arguments": deepest}) == canonical({"arguments": deepest})
    endless: dict[str, object] = {}
    endless["x"] = endless
    with pytest.raises(EventInvalidError):
        canonical_input(endless)


@pytest.mark.parametrize(
    "number", ["0", "-0", "98.70", "1E+2", "0.0001", "0.001", "123456789012345.5", "5E-324", "1e15"]
)
def test_numbers_of_an_input_are_written_as_jcs_writes_them(number):
    value = {"x": Decimal(number)}
    assert canonical_input(value) == canonical(value)


def test_the_time_keeps_its_microseconds_and_is_utc_again():
    at = datetime(2026, 11, 21, 14, 0, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    read = decode_event(encode_event(Event(EventType.STEP_ENDED, at, {}), None)).at
    assert (read, read.tzinfo) == (at, UTC)


def test_the_input_itself_is_not_in_the_body_only_its_digest():
    body = encode_event(granted(), b"\x07" * 32)
    assert b"ord_00000042" not in body
    assert decode_body(body)[1] == b"\x07" * 32


def test_inv_14_the_digest_of_an_input_is_salted_so_that_equal_inputs_differ():
    plain = canonical_input({"arguments": {"order_id": "ord_00000042"}})
    assert input_digest(b"a" * 32, plain) == hashlib.sha256(b"a" * 32 + plain).digest()
    assert input_digest(b"a" * 32, plain) != input_digest(b"b" * 32, plain)


@pytest.mark.parametrize("salt", [b"", b"a" * 31, b"a" * 33])
def test_inv_14_a_digest_without_a_whole_salt_is_refused(salt):
    with pytest.raises(EventInvalidError, match="salt"):
        input_digest(salt, b"{}")


@pytest.mark.parametrize(
    "data",
    [{"x": 1.5}, {"x": float("nan")}, {"x": b"bytes"}, {"x": 2**53}, {1: "x"}, {"x": "\ud800"}, {"x": {"y": {1, 2}}},
     {"x": "a" * MAX_BODY_BYTES}, {"ü": 1, "x": "\ud800"}, {"x": [1.5]}, {"x": [-(2**53)]}, {"x": Decimal(1)}, {"x": {None: 1}},
     {"x": [{True: 1}]}, {"x": Word.ONE}, {Word.ONE: 1}, {"x": Number.ONE}, {"x": MappingProxyType({1: "x"})}],
)  # fmt: skip
def test_what_is_not_plain_bounded_json_is_refused(data):
    with pytest.raises(EventInvalidError):
        encode_event(Event(EventType.STEP_DENIED, START, data), None)


def nested(levels: int, value: object) -> dict[str, object]:
    """`value` within so many objects and arrays in turn."""
    for level in range(levels):
        value = [value] if level % 2 else {"x": value}
    return {"x": value}


def test_data_nests_as_deep_as_it_may_and_no_deeper():
    for innermost, room in (("text", 2), ({}, 3), ([], 3)):
        deepest = nested(MAX_DATA_DEPTH - room, innermost)
        assert decode_event(encode_event(Event(EventType.STEP_DENIED, START, deepest), None)).data == deepest
        with pytest.raises(EventInvalidError, match="nests deeper"):
            encode_event(Event(EventType.STEP_DENIED, START, nested(MAX_DATA_DEPTH - room + 1, innermost)), None)


def test_tuples_and_mappings_are_written_as_arrays_and_objects():
    event = Event(EventType.STEP_DENIED, START, MappingProxyType({"b": (1, MappingProxyType({"c": ()})), "a": None}))
    assert decode_event(encode_event(event, None)).data == {"a": None, "b": [1, {"c": []}]}


def test_data_that_nests_without_end_is_refused():
    endless: dict[str, object] = {}
    endless["x"] = endless
    with pytest.raises(EventInvalidError, match="nests deeper"):
        encode_event(Event(EventType.STEP_DENIED, START, endless), None)


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(EventInvalidError, match="without a zone"):
        encode_event(replace(granted(), at=START.replace(tzinfo=None)), None)


GOOD = {"schema": 1, "type": "step.ended", "at": 1, "data": {}}


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "without exactly"),
        (json.dumps({**GOOD, "more": 1}).encode(), "without exactly"),
        (json.dumps({**GOOD, "schema": 2}).encode(), "schema 2"),
        (json.dumps({**GOOD, "schema": True}).encode(), "schema True"),
        (json.dumps({**GOOD, "type": "step.invented"}).encode(), "unknown type"),
        (json.dumps({**GOOD, "type": ["step.ended"]}).encode(), "unknown type"),
        (json.dumps({**GOOD, "at": "now"}).encode(), "wrong type"),
        (json.dumps({**GOOD, "at": True}).encode(), "wrong type"),
        (json.dumps({**GOOD, "at": -1}).encode(), "wrong type"),
        (json.dumps({**GOOD, "data": []}).encode(), "wrong type"),
        (json.dumps({**GOOD, "data": {"x": 1.5}}).encode(), "not JSON"),
        (json.dumps({**GOOD, "data": {"x": float("nan")}}).encode(), "not JSON"),
        (json.dumps({**GOOD, "input_sha256": "A" * 64}).encode(), "input_sha256"),
        (b'{"schema":1,"type":"step.ended","at":1,"at":2,"data":{}}', "not JSON"),
        (b'{"schema":1,"type":"step.ended","at":1,"data":{"a":1,"a":2}}', "not JSON"),
        (b'{"schema":1,"type":"step.ended","at":1,"data":' + b"[" * 50_000, "not JSON"),
        (b" " * (MAX_BODY_BYTES + 1), "bytes"),
    ],
)
def test_inv_11_a_body_that_is_not_an_event_of_this_version_stops_the_fold(body, wrong):
    with pytest.raises(LedgerBrokenError, match=wrong):
        decode_event(body)


def test_the_hash_is_over_tag_instance_sequence_previous_hash_and_the_stored_bytes():
    expected = hashlib.sha256(
        b"stepgrant.ledger.v1\0"
        + int("".join(f"{'0123456789ABCDEFGHJKMNPQRSTVWXYZ'.index(c):05b}" for c in INSTANCE), 2).to_bytes(16, "big")
        + (7).to_bytes(8, "big") + b"p" * 32 + b"body"
    ).digest()  # fmt: skip
    assert record_hash(INSTANCE, 7, b"p" * 32, b"body") == expected
