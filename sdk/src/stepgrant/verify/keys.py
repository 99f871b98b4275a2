"""Keys and checkpoints of the gateway: trusted only once the gateway's SVID vouches for them (design 4, 7)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from stepgrant.compact import parse_members
from stepgrant.errors import InvalidInputError, InvalidSvidError
from stepgrant.feed import MAX_KEYS, AnnouncedKey, Checkpoint, checkpoint_message, key_message
from stepgrant.jwk import parse_public_jwk
from stepgrant.spiffe.bundles import BundleSet
from stepgrant.spiffe.ids import SpiffeId
from stepgrant.spiffe.signatures import verify_svid_signature
from stepgrant.spiffe.x509 import VerifiedSvid, verify_x509_svid

MAX_CHECKPOINTS: Final = 64
"""Gateway instances whose latest checkpoint is remembered, one a start."""

_KID: Final = re.compile(r"([0-7][0-9A-HJKMNP-TV-Z]{25})-(?:0|[1-9][0-9]{0,9})")


def issuer_instance(kid: str) -> str | None:
    """The gateway instance that a key id belongs to (`<instance ULID>-<counter>`), or None: then it is no key id."""
    match = _KID.fullmatch(kid)
    return match[1] if match else None


@dataclass(frozen=True, slots=True)
class GatewayAuthority:
    """Who may announce keys and checkpoints: the gateway's SPIFFE ID, under the bundles of now."""

    issuer: SpiffeId
    bundles: BundleSet

    def verify(self, chain: tuple[bytes, ...], message: bytes, signature: bytes, now: datetime) -> VerifiedSvid:
        """The gateway's SVID, if it verifies, is the issuer's, and signed `message`.

        Raises:
            InvalidSvidError: otherwise.
        """
        # 1. The chain leads to the bundle of the ID's own trust domain (X509-SVID, section 5).
        svid = verify_x509_svid(chain[0], chain[1:], self.bundles, now)
        # 2. It is the issuer that this verifier was configured with.
        if svid.spiffe_id != self.issuer:
            raise InvalidSvidError(f"the SVID is of {svid.spiffe_id}, not of the issuer {self.issuer}")
        # 3. Its private key made the signature.
        verify_svid_signature(svid, message, signature)
        return svid


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A key that signs grants of one gateway instance, up to `not_after`."""

    kid: str
    instance_id: str
    public_key: ec.EllipticCurvePublicKey = field(repr=False)
    jwk_json: str = field(repr=False)
    not_after: datetime


class TrustedKeys:
    """Keys by `kid`. A key gets in only by `accept`, and a `kid` never changes its key."""

    def __init__(self, keys: Iterable[TrustedKey] = ()) -> None:
        self._by_kid = {key.kid: key for key in keys}

    def get(self, kid: str, now: datetime) -> TrustedKey | None:
        """The key, if it is known and not past its end."""
        key = self._by_kid.get(kid)
        return key if key is not None and now < key.not_after else None

    def accept(self, announced: AnnouncedKey, authority: GatewayAuthority, now: datetime) -> None:
        """Trusts an announced key.

        Raises:
            InvalidInputError: the announcement does not verify, is no P-256 key, or says another key for a known `kid`.
        """
        # 1. The id names the instance that issues.
        instance = issuer_instance(announced.kid)
        if instance is None:
            raise InvalidInputError("the key id is not a gateway instance and a counter")
        # 2. The gateway's SVID vouches for id, key and end, together.
        message = key_message(announced.kid, announced.jwk_json, announced.not_after)
        authority.verify(announced.svid_chain, message, announced.signature, now)
        # 3. A P-256 key for ES256 and nothing else.
        key = parse_public_jwk(parse_members(announced.jwk_json.encode("utf-8")), extra=frozenset({"kid"}))
        # 4. The same id never stands for two keys, and never lives longer than it was said to.
        known = self._by_kid.get(announced.kid)
        if known is not None and known.jwk_json != announced.jwk_json:
            raise InvalidInputError(f"key id {announced.kid} was announced with another key before")
        end = announced.not_after if known is None else min(known.not_after, announced.not_after)
        # 5. Bounded: what has run out goes first.
        self._by_kid = {kid: kept for kid, kept in self._by_kid.items() if now < kept.not_after}
        if announced.kid not in self._by_kid and len(self._by_kid) >= MAX_KEYS:
            raise InvalidInputError(f"more than {MAX_KEYS} live keys")
        self._by_kid[announced.kid] = TrustedKey(announced.kid, instance, key, announced.jwk_json, end)

    def copy(self) -> TrustedKeys:
        """The same keys, to be changed apart."""
        return TrustedKeys(self._by_kid.values())


class Checkpoints:
    """The latest verified checkpoint of each gateway instance. They outlive subscriptions: a chain never gets shorter."""

    def __init__(self) -> None:
        self._latest: dict[str, tuple[int, bytes]] = {}

    def latest(self, instance_id: str) -> tuple[int, bytes] | None:
        """Sequence and hash of the latest checkpoint of an instance."""
        return self._latest.get(instance_id)

    def accept(self, checkpoint: Checkpoint, authority: GatewayAuthority, now: datetime) -> None:
        """Remembers a checkpoint.

        Raises:
            InvalidInputError: it does not verify, goes back, or says another hash for the same place.
        """
        latest = self._latest.get(checkpoint.instance_id)
        if latest == (checkpoint.sequence, checkpoint.hash):
            return
        if latest is not None and checkpoint.sequence <= latest[0]:
            raise InvalidInputError(
                f"the ledger of {checkpoint.instance_id} went back from {latest[0]} to {checkpoint.sequence}, or changed: "
                "look at it with `stepgrant audit verify`"
            )
        message = checkpoint_message(checkpoint.instance_id, checkpoint.sequence, checkpoint.hash)
        authority.verify(checkpoint.svid_chain, message, checkpoint.signature, now)
        if latest is None and len(self._latest) >= MAX_CHECKPOINTS:
            self._latest.pop(next(iter(self._latest)))
        self._latest[checkpoint.instance_id] = (checkpoint.sequence, checkpoint.hash)
