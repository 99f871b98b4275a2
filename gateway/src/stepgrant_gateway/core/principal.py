"""Who is on a connection."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from stepgrant.spiffe.ids import SpiffeId


@dataclass(frozen=True, slots=True)
class Peer:
    """A verified workload: `certificate_sha256` is 32 bytes over its leaf's DER, `method` how it was proven (`x509`)."""

    spiffe_id: SpiffeId
    method: str
    not_after: datetime
    certificate_sha256: bytes
