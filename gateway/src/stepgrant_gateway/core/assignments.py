"""Assignments: a dispatcher's word that a workload may open one task, of this type and with these words, once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from stepgrant.intent import Json, canonical

TICKET_BYTES: Final = 32
"""Of a ticket: random, so that digests under it tell nobody what they were made of."""
LONGEST_ASSIGNMENT: Final = timedelta(days=1)
"""How long a task can wait to be opened: an assignment is a privilege that stands meanwhile."""

_TICKET: Final = b"stepgrant.assignment.ticket.v1\0"
_WORDS: Final = b"stepgrant.assignment.words.v1\0"


class AssignmentState(Enum):
    """What became of an assignment. One that has expired is forgotten."""

    OPEN = "open"
    TAKEN = "taken"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Assignment:
    """A task that `workload` may open until `until`, once. `task_id`: the task that was opened with it.

    Of ticket and words (parameters and purpose) only digests are kept, here and in the ledger: whoever reads them can guess
    neither, and whoever opens the task sends both.
    """

    assignment_id: str
    ticket_sha256: bytes
    words_sha256: bytes
    dispatcher: str
    workload: str
    task_type: str
    until: datetime
    state: AssignmentState = AssignmentState.OPEN
    task_id: str = ""

    def says_the_same(self, other: Assignment) -> bool:
        """True if both come from the same dispatcher, with the same words, for the same workload and time."""
        return _said(self) == _said(other)


def _said(of: Assignment) -> tuple[object, ...]:
    return (of.ticket_sha256, of.words_sha256, of.dispatcher, of.workload, of.task_type, of.until)


def ticket_digest(ticket: bytes) -> bytes:
    """What a ticket is found by: 32 bytes."""
    return hashlib.sha256(_TICKET + ticket).digest()


def words_digest(ticket: bytes, parameters: Mapping[str, Json], purpose: str) -> bytes:
    """What the words are held against: SHA-256 over the ticket and JCS of the words, 32 bytes.

    The ticket keeps it from being guessed: the ledger must not tell parameters by their digest (design 7).
    """
    return hashlib.sha256(_WORDS + ticket + canonical({"parameters": dict(parameters), "purpose": purpose})).digest()
