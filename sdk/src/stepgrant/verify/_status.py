"""How a refusal looks on the wire: one table for gRPC and for HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from stepgrant.errors import Refusal, RefusalCode

MAX_DETAILS: Final = 1024


class Answer(Enum):
    """(gRPC status name, HTTP status)."""

    UNAUTHENTICATED = ("UNAUTHENTICATED", 401)
    DENIED = ("PERMISSION_DENIED", 403)
    UNAVAILABLE = ("UNAVAILABLE", 503)
    MALFORMED = ("INVALID_ARGUMENT", 400)


ANSWERS: Final[Mapping[RefusalCode, Answer]] = {
    RefusalCode.GRANT_MISSING: Answer.UNAUTHENTICATED,
    RefusalCode.GRANT_MALFORMED: Answer.UNAUTHENTICATED,
    RefusalCode.GRANT_HEADER: Answer.UNAUTHENTICATED,
    RefusalCode.UNKNOWN_KEY: Answer.UNAUTHENTICATED,
    RefusalCode.SIGNATURE: Answer.UNAUTHENTICATED,
    RefusalCode.CLAIMS: Answer.UNAUTHENTICATED,
    RefusalCode.ISSUER: Answer.UNAUTHENTICATED,
    RefusalCode.NOT_YET_VALID: Answer.UNAUTHENTICATED,
    RefusalCode.EXPIRED: Answer.UNAUTHENTICATED,
    RefusalCode.HOLDER: Answer.UNAUTHENTICATED,
    RefusalCode.REVOKED: Answer.UNAUTHENTICATED,
    RefusalCode.AUDIENCE: Answer.DENIED,
    RefusalCode.UNREGISTERED_CALL: Answer.DENIED,
    RefusalCode.TOOL: Answer.DENIED,
    RefusalCode.TOOL_CHANGED: Answer.DENIED,
    RefusalCode.TARGET: Answer.DENIED,
    RefusalCode.ARGUMENTS: Answer.DENIED,
    RefusalCode.LOCKED: Answer.DENIED,
    RefusalCode.USED_UP: Answer.DENIED,
    RefusalCode.CALL_MALFORMED: Answer.MALFORMED,
    RefusalCode.FEED_STALE: Answer.UNAVAILABLE,
    RefusalCode.REDEMPTION_UNAVAILABLE: Answer.UNAVAILABLE,
}


def details(refusal: Refusal) -> str:
    """One line for a gRPC status: code, reason and what to do."""
    return f"{refusal.code.value}: {refusal.reason} {refusal.next}".strip()[:MAX_DETAILS]
