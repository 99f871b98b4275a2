"""Strictness of the wire, shared by both sides: what a message may not carry (design 3, INV-11)."""

from __future__ import annotations

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
    """What of a message type has to be looked at: its enums, its oneofs and its nested messages."""

    enums: tuple[tuple[FieldDescriptor, frozenset[int]], ...]
    oneofs: tuple[str, ...]
    nested: tuple[FieldDescriptor, ...]


@lru_cache(maxsize=256)
def _shape(descriptor: Descriptor) -> _Shape:
    enums, nested = [], []
    for field in descriptor.fields:
        if field.enum_type is not None:
            allowed = [value.number for value in field.enum_type.values if not value.name.endswith("_UNSPECIFIED")]
            enums.append((field, frozenset(allowed)))
        elif field.message_type is not None:
            nested.append(field)
    return _Shape(tuple(enums), tuple(oneof.name for oneof in descriptor.oneofs), tuple(nested))


def _refuse(message: Message, path: str) -> None:
    unknown = UnknownFieldSet(message)
    if len(unknown):
        raise ProtocolError(
            f"{path} carries field {unknown[0].field_number}, which this revision does not know; "
            "use the same protocol revision on both sides"
        )
    shape = _shape(message.DESCRIPTOR)
    for name in shape.oneofs:
        if message.WhichOneof(name) is None:
            raise ProtocolError(f"{path}.{name} has no member set; set exactly one")
    for field, allowed in shape.enums:
        value = getattr(message, field.name)
        for number in value if field.is_repeated else (value,):
            if number not in allowed:
                raise ProtocolError(f"{path}.{field.name} has enum value {number}, which is not a valid one")
    for field in shape.nested:
        if field.is_repeated:
            for index, item in enumerate(getattr(message, field.name)):
                _refuse(item, f"{path}.{field.name}[{index}]")
        elif message.HasField(field.name):
            _refuse(getattr(message, field.name), f"{path}.{field.name}")
