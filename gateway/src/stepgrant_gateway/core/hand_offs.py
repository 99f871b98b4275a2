"""Hand-offs: an agent's word that another workload may work on a live step, in a branch of the same task, once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from stepgrant_gateway.core.delegation import Envelope

_TICKET: Final = b"stepgrant.hand_off.ticket.v1\0"


@dataclass(frozen=True, slots=True)
class HandOff:
    """A step that `receiver` (a SPIFFE ID) may open a branch below, within `envelope`. Its id is that of the branch."""

    hand_off_id: str
    ticket_sha256: bytes
    receiver: str
    envelope: Envelope


def ticket_digest(ticket: bytes) -> bytes:
    """What a ticket is found by: 32 bytes."""
    return hashlib.sha256(_TICKET + ticket).digest()
