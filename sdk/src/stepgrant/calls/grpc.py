"""gRPC requests as calls."""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from stepgrant.calls.call import Call, malformed, registered_tool, unregistered
from stepgrant.errors import ArgumentsInvalidError, MisuseError
from stepgrant.intent import MAX_ARGUMENTS_BYTES, MAX_DEPTH, MAX_VALUES, Json, from_python

if TYPE_CHECKING:  # protobuf stays unimported where only HTTP is used
    from google.protobuf.message import Message

_METHOD: Final = re.compile(r"/[A-Za-z_][A-Za-z0-9_.]*/[A-Za-z_][A-Za-z0-9_]*")


class GrpcCalls:
    """The mapping of gRPC methods: `{"/pkg.Service/Method": "server.tool"}`.

    Arguments are the message's fields by their original names: 64-bit integers as integers, floats as the shortest decimal
    of their double, enums by name, bytes as unpadded base64url, maps as objects. Absent fields that can be absent are left
    out; scalars without presence, repeated fields and maps are always in, with their value.
    """

    def __init__(self, methods: Mapping[str, str]) -> None:
        for method, tool in methods.items():
            if _METHOD.fullmatch(method) is None:
                raise MisuseError(f"{method!r} is not a gRPC method; write it as /package.Service/Method")
            registered_tool(tool, method)
        self._methods = dict(methods)

    def __contains__(self, method: str) -> bool:
        """True if the method is registered."""
        return method in self._methods

    def tool(self, method: str) -> str:
        """The tool of a method; refuses one that is not registered."""
        tool = self._methods.get(method)
        if tool is None:
            raise unregistered("this gRPC method")
        return tool

    def read(self, method: str, message: Message) -> Call:
        """The call that a message on a method is.

        Raises:
            GrantRefusedError: `unregistered_call`, or `call_malformed`: unknown fields, extensions, an enum value without
                a name, a number that JSON cannot carry, too large, too deep, too many values.
        """
        tool = self.tool(method)
        if message.ByteSize() > MAX_ARGUMENTS_BYTES:
            raise malformed(f"the message takes more than {MAX_ARGUMENTS_BYTES} bytes")
        try:
            return Call(tool, _MessageReader().read(message, 1))
        except ArgumentsInvalidError as error:
            raise malformed(error.reason) from error


class _MessageReader:
    """Reads one message and its parts, and counts values on the way."""

    def __init__(self) -> None:
        self._values = 0

    def read(self, message: Message, depth: int) -> dict[str, Json]:
        from google.protobuf.unknown_fields import UnknownFieldSet

        self._count(depth)
        if len(UnknownFieldSet(message)):
            raise malformed(f"the message {message.DESCRIPTOR.name} carries unknown fields")
        if any(found.is_extension for found, _ in message.ListFields()):
            raise malformed(f"the message {message.DESCRIPTOR.name} carries extensions")
        arguments: dict[str, Json] = {}
        for one in message.DESCRIPTOR.fields:
            if one.has_presence and not message.HasField(one.name):
                continue
            arguments[one.name] = self._field(one, getattr(message, one.name), depth + 1)
        return arguments

    def _field(self, one: Any, value: Any, depth: int) -> Json:
        if not one.is_repeated:
            return self._value(one, value, depth)
        self._count(depth)
        if one.message_type is not None and one.message_type.GetOptions().map_entry:
            of = one.message_type.fields_by_name["value"]
            return {_map_key(key): self._value(of, value[key], depth + 1) for key in value}
        return [self._value(one, item, depth + 1) for item in value]

    def _value(self, one: Any, value: Any, depth: int) -> Json:
        if one.message_type is not None:
            return self.read(value, depth)
        self._count(depth)
        if one.enum_type is not None:
            named = one.enum_type.values_by_number.get(value)
            if named is None:
                raise malformed(f"`{one.name}` has an enum value without a name")
            return str(named.name)
        if isinstance(value, bytes):
            return urlsafe_b64encode(value).rstrip(b"=").decode("ascii")
        return from_python(value, one.name)

    def _count(self, depth: int) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise malformed(f"the message holds more than {MAX_VALUES} values")
        if depth > MAX_DEPTH:
            raise malformed(f"the message nests deeper than {MAX_DEPTH} levels")


def _map_key(key: str | bool | int) -> str:
    return ("true" if key else "false") if isinstance(key, bool) else str(key)
