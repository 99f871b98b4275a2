"""Assignments: what a dispatcher hands to the agent that is to open the task."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from stepgrant.errors import InvalidInputError
from stepgrant.ids import parse_name, parse_ulid
from stepgrant.intent import MAX_PARAMETERS_BYTES, Json, canonical, parse_object

TICKET_BYTES: Final = 32
"""Of a ticket."""
MAX_PURPOSE: Final = 1024
"""Characters of a purpose."""
MAX_SLIP_BYTES: Final = 2 * MAX_PARAMETERS_BYTES
"""Of the JSON in a slip: parameters, purpose, and names around them."""

_PREFIX: Final = "stepgrant-assignment-1."
_ENCODED: Final = re.compile(r"[A-Za-z0-9_-]+")
_MEMBERS: Final = {"id", "parameters", "purpose", "task_type", "ticket"}


@dataclass(frozen=True, slots=True)
class Assignment:
    """A task that was assigned to one workload: its type and its words, and the ticket that it is opened with, once.

    `parameters` are strict JSON with numbers as Decimal. `id` is the assignment's name in the ledger, and what it is withdrawn
    by. The ticket is 32 random bytes; who holds it needs the SVID of the workload as well.
    """

    id: str
    task_type: str
    parameters: Mapping[str, Json] = field(repr=False)
    purpose: str
    ticket: bytes = field(repr=False)

    def slip(self) -> str:
        """The same as text of one line, in ASCII, for a queue, an environment variable or a request: see `read`."""
        members: dict[str, Json] = {
            "id": self.id,
            "task_type": self.task_type,
            "parameters": dict(self.parameters),
            "purpose": self.purpose,
            "ticket": self.ticket.hex(),
        }
        return _PREFIX + urlsafe_b64encode(canonical(members)).rstrip(b"=").decode("ascii")

    @classmethod
    def read(cls, slip: str) -> Self:
        """The assignment that a slip holds. Whether it is genuine, the gateway says when it is opened.

        Raises:
            InvalidInputError: it is no slip; never with its text.
        """
        encoded = slip.removeprefix(_PREFIX)
        if not slip.startswith(_PREFIX) or _ENCODED.fullmatch(encoded) is None or len(encoded) > 2 * MAX_SLIP_BYTES:
            raise InvalidInputError(f"this is no slip of an assignment, which begins with {_PREFIX} and is one line")
        try:
            text = urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode("utf-8")
        except ValueError as error:
            raise InvalidInputError("the slip of an assignment is not whole") from error
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
            "the slip of an assignment does not hold what it must; use the same release on both sides"
        )
