"""What one workload hands to another, which opens a task with it, or a branch of one: as a value, or as text of one line."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Self

from stepgrant.errors import InvalidInputError
from stepgrant.ids import parse_name, parse_ulid
from stepgrant.intent import MAX_PARAMETERS_BYTES, Json, canonical, parse_object

TICKET_BYTES: Final = 32
"""Of a ticket."""
MAX_PURPOSE: Final = 1024
"""Characters of a purpose."""
MAX_SLIP_BYTES: Final = 2 * MAX_PARAMETERS_BYTES
"""Of the JSON in a slip: parameters, purpose, and names around them."""

_ENCODED: Final = re.compile(r"[A-Za-z0-9_-]+")
_MEMBERS: Final = {"id", "parameters", "purpose", "task_type", "ticket"}


@dataclass(frozen=True, slots=True)
class Handed:
    """The words of a task, and the ticket that whoever is named by the gateway's record opens it with, once.

    `parameters` are strict JSON with numbers as Decimal. `id` is a ULID, its name in the ledger. The ticket is 32 random
    bytes; who holds it needs the SVID of the workload as well.
    """

    id: str
    task_type: str
    parameters: Mapping[str, Json] = field(repr=False)
    purpose: str
    ticket: bytes = field(repr=False)

    _what: ClassVar[str]
    _prefix: ClassVar[str]

    def slip(self) -> str:
        """The same as text of one line, in ASCII, for a queue, an environment variable or a request: see `read`."""
        members: dict[str, Json] = {
            "id": self.id,
            "task_type": self.task_type,
            "parameters": dict(self.parameters),
            "purpose": self.purpose,
            "ticket": self.ticket.hex(),
        }
        return self._prefix + urlsafe_b64encode(canonical(members)).rstrip(b"=").decode("ascii")

    @classmethod
    def read(cls, slip: str) -> Self:
        """What a slip holds. Whether it is genuine, the gateway says when it is opened.

        Raises:
            InvalidInputError: it is no slip of this kind; never with its text.
        """
        encoded = slip.removeprefix(cls._prefix)
        if not slip.startswith(cls._prefix) or _ENCODED.fullmatch(encoded) is None or len(encoded) > 2 * MAX_SLIP_BYTES:
            raise InvalidInputError(f"this is no slip of {cls._what}, which begins with {cls._prefix} and is one line")
        try:
            text = urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode("utf-8")
        except ValueError as error:
            raise InvalidInputError(f"the slip of {cls._what} is not whole") from error
        members = parse_object(text, max_bytes=MAX_SLIP_BYTES, what="the slip")
        match members:
            case {
                "id": str(name),
                "task_type": str(task_type),
                "parameters": dict(parameters),
                "purpose": str(purpose),
                "ticket": str(ticket),
            } if members.keys() == _MEMBERS and re.fullmatch("[0-9a-f]{64}", ticket) and len(purpose) <= MAX_PURPOSE:
                parse_name(task_type, "the task type of the slip")
                return cls(
                    parse_ulid(name, "the id of the slip"), task_type, parameters, purpose, bytes.fromhex(ticket)
                )
        raise InvalidInputError(
            f"the slip of {cls._what} does not hold what it must; use the same release on both sides"
        )


@dataclass(frozen=True, slots=True)
class Assignment(Handed):
    """A task that was assigned to one workload, which opens it with this, once. It is withdrawn by its `id`."""

    _what = "an assignment"
    _prefix = "stepgrant-assignment-1."


@dataclass(frozen=True, slots=True)
class HandOff(Handed):
    """A live step that was handed on to one workload, which opens a branch of the step's task with this, once.

    Type and parameters are the task's, `purpose` is what it was handed on for, and `id` is that of the branch.
    """

    _what = "a hand-off"
    _prefix = "stepgrant-hand-off-1."
