"""Bytes that are no message, or almost one: for every field of every type, found by its descriptor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

VARINT, FIXED64, DELIMITED, GROUP, END_GROUP, FIXED32 = range(6)
UNKNOWN = 15_000
DEEP = 10_000


def varint(value: int) -> bytes:
    """A base-128 varint."""
    said = bytearray()
    while value >= 128:
        said.append(value % 128 | 128)
        value //= 128
    return bytes((*said, value))


def tag(number: int, wire_type: int) -> bytes:
    """The key of a field."""
    return varint(number << 3 | wire_type)


def delimited(number: int, body: bytes) -> bytes:
    """A length-delimited field."""
    return tag(number, DELIMITED) + varint(len(body)) + body


def wrong(kind: Descriptor) -> Iterator[tuple[str, bytes]]:
    """What breaks the type of one field each, or no type at all: a name, and bytes to be put behind a good message."""
    for field in kind.fields:
        as_text = field.type in {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_MESSAGE}
        other = tag(field.number, VARINT) + b"\x01" if as_text else delimited(field.number, b"\xff\xff")
        yield f"{field.name} of the wrong wire type", other
        if field.type == FieldDescriptor.TYPE_STRING:
            yield f"{field.name} that is not UTF-8", delimited(field.number, b"\xc3\x28")
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            yield f"{field.name} cut off", tag(field.number, DELIMITED) + varint(100) + b"\x0a"
    yield "an unknown field", delimited(UNKNOWN, b"x" * 200_000)
    yield "groups in groups", tag(UNKNOWN, GROUP) * DEEP + tag(UNKNOWN, END_GROUP) * DEEP
    yield "a group without an end", tag(UNKNOWN, GROUP)
    yield "an end without a group", tag(UNKNOWN, END_GROUP)
    yield "a varint without an end", b"\x08" + b"\xff" * 11
    yield "field number zero", b"\x02\x01x"
    yield "a length beyond the message", tag(UNKNOWN, DELIMITED) + b"\xff\xff\xff\xff\x07"
    yield "messages in messages", nested(kind)


def nested(kind: Descriptor) -> bytes:
    """Each message in the one before, as deep as the types allow and further in an unknown field."""
    body = b""
    for _ in range(1_000):
        body = delimited(UNKNOWN, body)
    return body


def values(kind: Descriptor) -> st.SearchStrategy[Any]:
    """Messages of a type with any fields set to anything."""

    def value(field: FieldDescriptor) -> st.SearchStrategy[Any]:
        one: st.SearchStrategy[Any]
        match field.type:
            case FieldDescriptor.TYPE_STRING:
                one = st.text(max_size=40) | st.sampled_from(["orders.get", "Refund", "{}", '{"a":[', "mine"])
            case FieldDescriptor.TYPE_BYTES:
                one = st.binary(max_size=70)
            case FieldDescriptor.TYPE_BOOL:
                one = st.booleans()
            case FieldDescriptor.TYPE_ENUM:
                one = st.integers(-1, 9)
            case FieldDescriptor.TYPE_MESSAGE:
                one = values(field.message_type)
            case FieldDescriptor.TYPE_INT64:
                one = st.integers(-(2**63), 2**63 - 1)
            case FieldDescriptor.TYPE_UINT32:
                one = st.integers(0, 2**32 - 1)
            case _:
                one = st.integers(0, 2**64 - 1)
        return st.lists(one, max_size=3) if field.is_repeated else one

    plain = [field for field in kind.fields if not (field.message_type and field.message_type.GetOptions().map_entry)]
    return st.fixed_dictionaries({}, optional={field.name: value(field) for field in plain}).map(
        lambda chosen: GetMessageClass(kind)(**chosen)
    )


def mangled(kind: Descriptor) -> st.SearchStrategy[bytes]:
    """Bytes of messages, whole, doubled with another, cut, and with bytes changed; and bytes that never were one."""
    whole = values(kind).map(lambda made: made.SerializeToString())
    return st.one_of(
        whole,
        st.tuples(whole, whole).map(b"".join),
        st.tuples(whole, st.integers(0, 300)).map(lambda cut: cut[0][: cut[1]]),
        st.tuples(whole, st.integers(0, 300), st.integers(0, 255)).map(
            lambda hit: hit[0][: hit[1]] + bytes((hit[2],)) + hit[0][hit[1] + 1 :]
        ),
        st.binary(max_size=200),
    )
