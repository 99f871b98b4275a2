"""The instance key, and what it proves: possession at `Open`, and at each call by DPoP (RFC 9449)."""

from __future__ import annotations

import hashlib
import heapq
import hmac
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from stepgrant.compact import JwsSignatureError, base64url, parse_members
from stepgrant.errors import GrantRefusedError, InvalidInputError, MisuseError, RefusalCode
from stepgrant.grant import LEEWAY, MAX_GRANT_BYTES, OPEN_TAG
from stepgrant.jwk import parse_public_der, parse_public_jwk, public_der, public_jwk, thumbprint
from stepgrant.jws import parse_jws, sign_jws, sign_raw, verify_jws, verify_raw

PROOF_TYPE: Final = "dpop+jwt"
MAX_PROOF_BYTES: Final = 4096
MAX_JTI_CHARACTERS: Final = 128
PROOF_AGE: Final = timedelta(seconds=5)
"""How old `iat` of a proof may be. It may lie LEEWAY ahead, for clocks that differ."""
REPLAY_CAPACITY: Final = 100_000
"""Proofs remembered at once: 8 seconds of 12,500 calls each."""
NONCE_BYTES: Final = 32

_HEADER: Final = frozenset({"alg", "typ", "jwk"})
_CLAIMS: Final = frozenset({"jti", "htm", "htu", "iat", "ath"})


@dataclass(frozen=True, slots=True)
class InstanceKey:
    """The key pair of one instance: P-256, made at start, never stored."""

    _private: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse another curve: ES256 is all that is spoken."""
        if not isinstance(self._private.curve, ec.SECP256R1):
            raise MisuseError("an instance key is of P-256")

    @classmethod
    def generate(cls) -> InstanceKey:
        """A new key from the operating system's randomness."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @property
    def jkt(self) -> bytes:
        """The thumbprint that grants are bound to (RFC 7638): 32 bytes."""
        return thumbprint(self._private.public_key())

    @property
    def public_der(self) -> bytes:
        """The public key as SubjectPublicKeyInfo in DER."""
        return public_der(self._private.public_key())

    def sign_es256_raw(self, message: bytes) -> bytes:
        """The ES256 signature over `message`: r and s, 64 bytes."""
        return sign_raw(message, self._private)

    def _sign_proof(self, payload: bytes) -> str:
        header: dict[str, Any] = {"typ": PROOF_TYPE, "jwk": public_jwk(self._private.public_key())}
        return sign_jws(header, payload, self._private)


class ReplayCache:
    """Proofs that were used, each remembered for as long as it would pass again. Full, it refuses: it never forgets early."""

    def __init__(self, capacity: int = REPLAY_CAPACITY, *, since: datetime | None = None) -> None:
        """`since` is when it began to remember: proofs of an earlier second may have been used before, and are refused."""
        if capacity < 1:
            raise MisuseError("a replay cache holds at least one proof")
        self._capacity = capacity
        self._known: set[bytes] = set()
        self._order: list[tuple[datetime, bytes]] = []
        self._forgotten_until = None if since is None else since.replace(microsecond=0) + PROOF_AGE

    def remember(self, proof: bytes, *, until: datetime, now: datetime) -> bool:
        """True if the proof (a digest of it) is new; it is remembered up to `until`. False: seen, or no room to tell.

        A wall clock that is set back cannot revive what has been forgotten.
        """
        if self._forgotten_until is not None and until <= self._forgotten_until:
            return False
        while self._order and self._order[0][0] < now:
            forgotten, key = heapq.heappop(self._order)
            self._known.discard(key)
            self._forgotten_until = forgotten
        if proof in self._known or len(self._known) >= self._capacity:
            return False
        self._known.add(proof)
        heapq.heappush(self._order, (until, proof))
        return True


def make_proof(key: InstanceKey, *, htm: str, htu: str, grant: str, now: datetime, jti: str) -> str:
    """The DPoP proof for one call under `grant` (RFC 9449, section 4.2). `jti` is new for each call."""
    claims = {"jti": jti, "htm": htm, "htu": htu, "iat": int(now.timestamp()), "ath": _hash_of(grant)}
    return key._sign_proof(json.dumps(claims, separators=(",", ":")).encode("utf-8"))  # noqa: SLF001 - same module


def verify_proof(proof: str, *, htm: str, htu: str, grant: str, now: datetime, jkt: bytes, replay: ReplayCache) -> None:
    """Returns if `proof` shows that whoever makes this very call, now and once, holds the key of thumbprint `jkt`.

    Raises:
        GrantRefusedError: `holder`, with the step that failed (RFC 9449, section 4.3).
    """
    # 1. Size and shape, `typ`, an asymmetric `alg`, exactly one public `jwk` (4.3, items 1 to 5 and 7).
    try:
        jws = parse_jws(proof, typ=PROOF_TYPE, members=_HEADER, max_bytes=MAX_PROOF_BYTES)
        key = parse_public_jwk(jws.header["jwk"])
    except InvalidInputError as error:
        raise _refused(f"the DPoP proof is not one: {error}") from error
    # 2. It is the key that the grant is bound to (4.3, item 12; RFC 9449, section 6.1).
    if not hmac.compare_digest(thumbprint(key), jkt):
        raise _refused("the DPoP proof is by another key than the grant is bound to")
    # 3. Signature (4.3, item 6).
    try:
        claims = parse_members(verify_jws(jws, key))
    except JwsSignatureError as error:
        raise _refused("the DPoP proof's signature does not verify") from error
    except InvalidInputError as error:
        raise _refused(f"the DPoP proof's claims are not readable: {error}") from error
    # 4. Exactly the claims that we know, each of its type (4.3, item 3).
    if set(claims) != _CLAIMS or type(claims["iat"]) is not int:
        raise _refused("the DPoP proof does not have exactly jti, htm, htu, iat and ath")
    if not all(isinstance(claims[name], str) for name in ("jti", "htm", "htu", "ath")):
        raise _refused("a claim of the DPoP proof is not a string")
    if not 0 < len(claims["jti"]) <= MAX_JTI_CHARACTERS:
        raise _refused(f"the DPoP proof's jti is empty or longer than {MAX_JTI_CHARACTERS} characters")
    # 5. This method and this URI (4.3, items 8 and 9); compared byte for byte, both sides build them the same way.
    if claims["htm"] != htm or claims["htu"] != htu:
        raise _refused("the DPoP proof is for another method or URI")
    # 6. This grant (4.3, item 12).
    if not hmac.compare_digest(claims["ath"].encode("utf-8"), _hash_of(grant).encode("ascii")):
        raise _refused("the DPoP proof is for another grant")
    # 7. Made just now (4.3, item 11). `nonce` (item 10) is not used: `ath` and `jti` bind a proof to one call.
    age = int(now.timestamp()) - claims["iat"]
    if not -LEEWAY.total_seconds() <= age <= PROOF_AGE.total_seconds():
        raise _refused(f"the DPoP proof was not made within the last {PROOF_AGE.seconds} seconds; look at the clocks")
    # 8. Not seen before (RFC 9449, section 11.1); remembered for as long as step 7 would let it pass, its last second included.
    digest = hashlib.sha256(jkt + claims["jti"].encode("utf-8", "surrogatepass")).digest()
    until = datetime.fromtimestamp(claims["iat"], UTC) + PROOF_AGE + timedelta(seconds=1)
    if not replay.remember(digest, until=until, now=now):
        raise _refused("the DPoP proof was used before, or too many calls are in flight to tell")


def open_message(gateway_id: str, nonce: bytes, credential_sha256: bytes) -> bytes:
    """What the instance key signs at `Open`: tag, SHA-256 of the gateway's ID, nonce, SHA-256 of the identity credential.

    That is the client's leaf (DER), or the characters of its bearer token.

    Raises:
        InvalidInputError: nonce or digest are not 32 bytes.
    """
    if len(nonce) != NONCE_BYTES or len(credential_sha256) != 32:
        raise InvalidInputError("the nonce and the digest of the identity credential are 32 bytes each")
    return OPEN_TAG + hashlib.sha256(gateway_id.encode("utf-8")).digest() + nonce + credential_sha256


def verify_open_proof(instance_key_der: bytes, signature: bytes, message: bytes) -> bytes:
    """The thumbprint (32 bytes) of an instance key, whose possession `signature` over `message` proves.

    Raises:
        InvalidInputError: not a P-256 key, or not its signature.
    """
    key = parse_public_der(instance_key_der)
    verify_raw(signature, message, key)
    return thumbprint(key)


def grpc_htu(authority: str, method: str) -> str:
    """`htu` of a gRPC call: `https://<authority>/<Service>/<Method>`; its `htm` is `POST`."""
    return f"https://{authority}{method}"


def _hash_of(grant: str) -> str:
    if len(grant) > MAX_GRANT_BYTES:
        raise MisuseError("a grant takes at most 4 KiB")
    return base64url(hashlib.sha256(grant.encode("ascii")).digest())


def _refused(reason: str) -> GrantRefusedError:
    return GrantRefusedError(
        RefusalCode.HOLDER, reason + ".", "Make the call with the instance key of the task that the step belongs to."
    )
