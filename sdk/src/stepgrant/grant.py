"""The grant: its claims, how they are read and written, and the constants that minting and verifying share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final

from stepgrant.compact import base64url, from_base64url
from stepgrant.errors import GrantRefusedError, InvalidIdError, RefusalCode
from stepgrant.subject import SubjectId

GRANT_TYPE: Final = "stepgrant+jwt"
GRANT_ALGORITHM: Final = "ES256"
GRANT_VERSION: Final = 1
MAX_GRANT_BYTES: Final = 4096
MAX_CHAIN: Final = 4
"""Workloads that a task can go through: whoever opened it, and three to whom it was handed on in turn."""
GRANT_METADATA_KEY: Final = "stepgrant-grant"
"""gRPC metadata key and HTTP header that a grant travels in."""
DPOP_HEADER: Final = "dpop"
REFUSAL_METADATA_KEY: Final = "stepgrant-refusal"
"""gRPC trailing metadata key and HTTP response header: the code of a resource's refusal."""
DETAIL_TYPE: Final = "stepgrant:tool_call"
LEEWAY: Final = timedelta(seconds=2)
"""For `nbf`, `iat` and the accepted offset between clocks. `exp` has none."""
HEARTBEAT: Final = timedelta(seconds=1)
PROTOCOL_REVISION: Final = 1
KEY_TAG: Final = b"stepgrant.key.v1\0"
CHECKPOINT_TAG: Final = b"stepgrant.checkpoint.v1\0"
OPEN_TAG: Final = b"stepgrant.open.v1\0"


class Tier(Enum):
    """A named control profile (design 5.5)."""

    ROUTINE = "routine"
    SENSITIVE = "sensitive"

    # Members are single: Enum's own hash is of the name, in Python, at each look into a table.
    __hash__ = object.__hash__


FEED_AGE_ALLOWED: Final[Mapping[Tier, timedelta]] = {
    Tier.ROUTINE: timedelta(seconds=5),
    Tier.SENSITIVE: timedelta(seconds=5),
}
"""How old a verifier's view of the issuer may be. A sensitive grant is redeemed as well."""


class Binding(Enum):
    """How the holder proves possession: `mtls` by the certificate of the stream, `key` by DPoP with the instance key."""

    MTLS = "mtls"
    KEY = "key"

    __hash__ = object.__hash__  # As above.


@dataclass(frozen=True, slots=True)
class GrantClaims:
    """The claims of one grant (design 4). Times are aware UTC with whole seconds.

    `chain`: the workloads from the origin of the task to `subject`, who is its last, each once; at most MAX_CHAIN.
    `args_sha256` and `tool_digest` are 32 bytes; `confirmation` is the 32-byte thumbprint that `cnf` carries:
    `x5t#S256` (RFC 8705) for MTLS, `jkt` (RFC 7638) for KEY. `uses` None = not limited within the lifetime.
    """

    issuer: str
    subject: str
    chain: tuple[str, ...]
    audience: str
    issued_at: datetime
    not_before: datetime
    expires_at: datetime
    grant_id: str
    task_id: str
    step_id: str
    task_type: str
    tool: str
    tool_digest: bytes
    target: str
    args_sha256: bytes
    binding: Binding
    confirmation: bytes
    tier: Tier
    uses: int | None
    policy_digest: str
    on_behalf_of: SubjectId | None = None
    """The user on whose behalf the task runs; None = nobody's."""

    @property
    def must_be_redeemed(self) -> bool:
        """True if the resource has to take a use at the gateway before it acts."""
        return self.uses is not None or self.tier is Tier.SENSITIVE


def to_payload(claims: GrantClaims) -> dict[str, Any]:
    """The JSON payload of the token."""
    payload: dict[str, Any] = {
        "ver": GRANT_VERSION,
        "iss": claims.issuer,
        "sub": claims.subject,
        "chain": list(claims.chain),
        "aud": claims.audience,
        "iat": _seconds(claims.issued_at),
        "nbf": _seconds(claims.not_before),
        "exp": _seconds(claims.expires_at),
        "jti": claims.grant_id,
        "txn": claims.task_id,
        "step": claims.step_id,
        "task_type": claims.task_type,
        "authorization_details": [
            {
                "type": DETAIL_TYPE,
                "tool": claims.tool,
                "tool_digest": claims.tool_digest.hex(),
                "target": claims.target,
                "args_sha256": claims.args_sha256.hex(),
            }
        ],
        "cnf": {_CONFIRMATION[claims.binding]: base64url(claims.confirmation)},
        "tier": claims.tier.value,
        "pol": claims.policy_digest,
    }
    if claims.uses is not None:
        payload["uses"] = claims.uses
    if claims.on_behalf_of is not None:
        payload["on_behalf_of"] = {"iss": claims.on_behalf_of.issuer, "sub": claims.on_behalf_of.subject}
    return payload


def from_payload(payload: bytes) -> GrantClaims:
    """The claims that a payload carries, each of the right type, none missing, none unknown, none twice.

    Raises:
        GrantRefusedError: `claims`, naming the claim.
    """
    document = _document(payload)
    unknown = sorted(set(document) - _CLAIMS)
    if unknown:
        raise _bad(f"unknown claim {unknown[0][:64]!r}")
    if _integer(document, "ver") != GRANT_VERSION:
        raise _bad(f"`ver` is {document['ver']}, this verifier knows {GRANT_VERSION}")
    details = document.get("authorization_details")
    if not isinstance(details, list) or len(details) != 1 or not isinstance(details[0], dict):
        raise _bad("`authorization_details` is not one object")
    detail = details[0]
    if set(detail) != {"type", "tool", "tool_digest", "target", "args_sha256"} or detail["type"] != DETAIL_TYPE:
        raise _bad("`authorization_details` is not a stepgrant:tool_call")
    binding, confirmation = _confirmation(document.get("cnf"))
    try:
        tier = Tier(_text(document, "tier"))
    except ValueError:
        raise _bad("`tier` is unknown") from None
    uses = _integer(document, "uses") if "uses" in document else None
    if uses is not None and uses < 1:
        raise _bad("`uses` is below 1")
    chain = document.get("chain")
    if not isinstance(chain, list) or not chain or not all(isinstance(item, str) for item in chain):
        raise _bad("`chain` is not a list of SPIFFE IDs")
    return GrantClaims(
        issuer=_text(document, "iss"),
        subject=_text(document, "sub"),
        chain=tuple(chain),
        audience=_text(document, "aud"),
        issued_at=_time(document, "iat"),
        not_before=_time(document, "nbf"),
        expires_at=_time(document, "exp"),
        grant_id=_text(document, "jti"),
        task_id=_text(document, "txn"),
        step_id=_text(document, "step"),
        task_type=_text(document, "task_type"),
        tool=_text(detail, "tool"),
        tool_digest=_digest(detail, "tool_digest"),
        target=_text(detail, "target"),
        args_sha256=_digest(detail, "args_sha256"),
        binding=binding,
        confirmation=confirmation,
        tier=tier,
        uses=uses,
        policy_digest=_text(document, "pol"),
        on_behalf_of=_subject(document["on_behalf_of"]) if "on_behalf_of" in document else None,
    )


_CONFIRMATION: Final = {Binding.MTLS: "x5t#S256", Binding.KEY: "jkt"}
_CLAIMS: Final = frozenset(
    [
        "ver",
        "iss",
        "sub",
        "chain",
        "aud",
        "iat",
        "nbf",
        "exp",
        "jti",
        "txn",
        "step",
        "task_type",
        "authorization_details",
        "cnf",
        "tier",
        "uses",
        "pol",
        "on_behalf_of",
    ]
)
_MAX_TIME: Final = 253402300799
"""9999-12-31T23:59:59Z, the last second that a datetime holds."""


def _document(payload: bytes) -> dict[str, Any]:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            raise _bad("a claim stands there twice")
        return result

    try:
        document = json.loads(payload.decode("utf-8"), object_pairs_hook=pairs)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise _bad("the payload is not JSON") from error
    if not isinstance(document, dict):
        raise _bad("the payload is not an object")
    return document


def _confirmation(cnf: object) -> tuple[Binding, bytes]:
    if isinstance(cnf, dict) and len(cnf) == 1:
        for binding, name in _CONFIRMATION.items():
            value = cnf.get(name)
            if isinstance(value, str):
                try:
                    thumbprint = from_base64url(value)
                except ValueError:
                    break
                if len(thumbprint) == 32:
                    return binding, thumbprint
    raise _bad("`cnf` is not exactly one SHA-256 thumbprint")


def _subject(value: object) -> SubjectId:
    if not isinstance(value, dict) or set(value) != {"iss", "sub"}:
        raise _bad("`on_behalf_of` is not an object of `iss` and `sub`")
    try:
        return SubjectId(_text(value, "iss"), _text(value, "sub"))
    except InvalidIdError as error:
        raise _bad(f"`on_behalf_of`: {error}") from error


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise _bad(f"`{name}` is not a non-empty string")
    return value


def _integer(document: Mapping[str, Any], name: str) -> int:
    value = document.get(name)
    if type(value) is not int:
        raise _bad(f"`{name}` is not an integer")
    return value


def _time(document: Mapping[str, Any], name: str) -> datetime:
    value = _integer(document, name)
    if not 0 < value <= _MAX_TIME:
        raise _bad(f"`{name}` is out of range")
    return datetime.fromtimestamp(value, UTC)


def _digest(document: Mapping[str, Any], name: str) -> bytes:
    text = _text(document, name)
    if len(text) != 64 or text.strip("0123456789abcdef"):
        raise _bad(f"`{name}` is not 64 lower-case hexadecimal digits")
    return bytes.fromhex(text)


def _seconds(time: datetime) -> int:
    return int(time.timestamp())


def _bad(reason: str) -> GrantRefusedError:
    return GrantRefusedError(
        RefusalCode.CLAIMS,
        f"the grant's claims are not valid: {reason}.",
        "Use the same release at the gateway and at the resource.",
    )
