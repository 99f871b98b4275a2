"""Identifiers: ULIDs in their one canonical form, and names of types and tools."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final, NewType

from stepgrant.errors import InvalidIdError

TaskId = NewType("TaskId", str)
StepId = NewType("StepId", str)
GrantId = NewType("GrantId", str)
DecisionId = NewType("DecisionId", str)
InstanceId = NewType("InstanceId", str)
LockId = NewType("LockId", str)
RedemptionId = NewType("RedemptionId", str)

ULID_LENGTH: Final = 26
ULID_RANDOM_BYTES: Final = 10
MAX_NAME: Final = 128
"""Characters of a task type, argument or parameter name."""

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = tuple(high + low for high in _ALPHABET for low in _ALPHABET)
_TO_BASE_32: Final = str.maketrans(_ALPHABET, "0123456789ABCDEFGHIJKLMNOPQRSTUV")
_ULID: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,127}")
_TOOL: Final = re.compile(r"[a-z][a-z0-9_]{0,126}\.[A-Za-z][A-Za-z0-9_]{0,127}")


def ulid(now: datetime, randomness: bytes) -> str:
    """A ULID in canonical upper case from an aware time and 10 random bytes (github.com/ulid/spec)."""
    if len(randomness) != ULID_RANDOM_BYTES:
        raise InvalidIdError(f"a ULID takes {ULID_RANDOM_BYTES} random bytes, not {len(randomness)}")
    number = (int(now.timestamp() * 1000) << 80) | int.from_bytes(randomness, "big")
    return "".join([_PAIRS[(number >> shift) & 1023] for shift in range(120, -1, -10)])


def parse_ulid(text: str, what: str) -> str:
    """The same text, if it is a ULID in canonical upper case.

    Raises:
        InvalidIdError: it is not; `what` names the field in the message.
    """
    if _ULID.fullmatch(text) is None:
        raise InvalidIdError(f"{what} is not a ULID: 26 characters of Crockford base 32 in upper case")
    return text


def ulid_bytes(text: str) -> bytes:
    """The 16 bytes of a canonical ULID."""
    return int(parse_ulid(text, "the id").translate(_TO_BASE_32), 32).to_bytes(16, "big")


def parse_name(text: str, what: str) -> str:
    """The same text, if it is the name of a task type, parameter or argument: ASCII letter, then letters, digits, `_`."""
    if _NAME.fullmatch(text) is None:
        raise InvalidIdError(f"{what} is not a name: an ASCII letter, then at most 127 letters, digits or underscores")
    return text


def parse_tool(text: str, what: str = "the tool") -> str:
    """The same text, if it is `server.tool` (`[a-z][a-z0-9_]*.[A-Za-z][A-Za-z0-9_]*`)."""
    if _TOOL.fullmatch(text) is None:
        raise InvalidIdError(f"{what} is not of the form server.tool, such as orders.refund")
    return text
