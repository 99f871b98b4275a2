"""How decisions stand in the ledger: the plain data of step events, one place for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from stepgrant_gateway.core.decision import Call, PolicyPlace, Refused
from stepgrant_gateway.core.grants import Lifetime, Terms

MAX_RECORDED_TEXT: Final = 1024
"""Characters of a reason or of an argument's name: what does not fit into a record would be a denial without one."""


def milliseconds(at: datetime) -> int:
    """Milliseconds since the Unix epoch."""
    return round(at.timestamp() * 1000)


def places(of: Iterable[PolicyPlace]) -> list[dict[str, Any]]:
    """Policies with file and line, for the operator."""
    return [{"id": place.policy_id, "file": place.file, "line": place.line} for place in of]


def granted(call: Call, terms: Terms, lifetime: Lifetime, *, grant_id: str, decision_id: str) -> dict[str, Any]:
    """What a grant, or a renewed one, says of itself. All that a fold needs stands here."""
    return {
        "decision": decision_id,
        "grant": grant_id,
        "tool": call.tool.name,
        "target": call.target,
        "audience": call.tool.audience.id,
        "tier": terms.tier.value,
        "uses": terms.uses,
        "iat_ms": milliseconds(lifetime.issued_at),
        "exp_ms": milliseconds(lifetime.expires_at),
        "policies": places(terms.places),
    }


def denied(refused: Refused, *, decision_id: str) -> dict[str, Any]:
    """What a denial says; `errors` and `policies` are for the operator."""
    return {
        "decision": decision_id,
        "code": refused.code.value,
        "reason": refused.reason[:MAX_RECORDED_TEXT],
        "argument": refused.argument[:MAX_RECORDED_TEXT],
        "policies": places(refused.places),
        "errors": list(refused.errors),
    }
