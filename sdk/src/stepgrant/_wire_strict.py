"""Strictness of the wire, shared by both sides: what a message may not carry (design 3, INV-11)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from stepgrant.errors import ProtocolError


def refuse_unknown(message: Message) -> None:
    """Returns if every part of the message is one that this revision knows.

    Looked at recursively: no unknown field, every oneof set, every enum value a known one other than
    `*_UNSPECIFIED`. Sizes are not looked at: the transport bounds the message, the caller its fields.

    Raises:
        ProtocolError: naming the message and the field by path; never a value.
    """
    _refuse(message, message.DESCRIPTOR.name)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What of a message type has to be looked at, by names of fields.

    `enums`: whether it is repeated, and the numbers allowed. `oneofs`: those of their members that are messages.
    `repeated` and `nested`: messages in no oneof.
    """

    enums: tuple[tuple[str, bool, frozenset[int]], ...]
    oneofs: tuple[tuple[str, frozenset[str]], ...]
    repeated: tuple[str, ...]
    nested: tuple[str, ...]


@lru_cache(maxsize=256)
def _shape(descriptor: Descriptor) -> _Shape:
    enums = []
    for field in descriptor.fields:
        if field.enum_type is not None:
            allowed = [value.number for value in field.enum_type.values if not value.name.endswith("_UNSPECIFIED")]
            enums.append((field.name, field.is_repeated, frozenset(allowed)))
    apart = [field for field in _messages(descriptor.fields) if field.containing_oneof is None]
    return _Shape(
        tuple(enums),
        tuple((oneof.name, frozenset(field.name for field in _messages(oneof.fields))) for oneof in descriptor.oneofs),
        tuple(field.name for field in apart if field.is_repeated),
        tuple(field.name for field in apart if not field.is_repeated),
    )


def _messages(fields: Iterable[FieldDescriptor]) -> list[FieldDescriptor]:
    return [field for field in fields if field.message_type is not None]


def _refuse(message: Message, path: str) -> None:
    unknown = UnknownFieldSet(message)
    if len(unknown):
        raise ProtocolError(
            f"{path} carries field {unknown[0].field_number}, which this revision does not know; "
            "use the same protocol revision on both sides"
        )
    shape = _shape(message.DESCRIPTOR)
    for oneof, messages in shape.oneofs:
        name = message.WhichOneof(oneof)
        if name is None:
            raise ProtocolError(f"{path}.{oneof} has no member set; set exactly one")
        if name in messages:
            _refuse(getattr(message, name), f"{path}.{name}")
    for name, repeated, allowed in shape.enums:
        value = getattr(message, name)
        for number in value if repeated else (value,):
            if number not in allowed:
                raise ProtocolError(f"{path}.{name} has enum value {number}, which is not a valid one")
    for name in shape.repeated:
        for index, item in enumerate(getattr(message, name)):
            _refuse(item, f"{path}.{name}[{index}]")
    for name in shape.nested:
        if message.HasField(name):
            _refuse(getattr(message, name), f"{path}.{name}")
