"""Keys that sign grants: in memory only, announced under the gateway's SVID before their first use (design 4)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from stepgrant.feed import key_message
from stepgrant.grant import GRANT_TYPE
from stepgrant.jwk import public_jwk
from stepgrant.jws import header_segment
from stepgrant_gateway.core.errors import GatewayError
from stepgrant_gateway.core.ports import SvidSigner
from stepgrant_gateway.core.revocation import AnnouncedKey

KEY_LIFETIME: Final = timedelta(hours=1)
"""How long a key signs before the next one takes over."""
KEY_OVERLAP: Final = timedelta(minutes=2)
"""How long a key is good after that: the longest grant (60 s) and room for a late timer."""


class WallClock(Protocol):
    """The part of `core.ports.Clock` that is needed here."""

    def now(self) -> datetime:
        """Aware UTC."""


class NoKeyError(GatewayError):
    """There is no active signing key that outlives the grant: keys were not rotated in time."""

    code = "no_signing_key"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key pair. It signs up to `retire_at`; what it has signed is good up to `not_after`.

    `header` is the first segment of every grant that it signs.
    """

    kid: str
    header: str
    private: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)
    jwk_json: str
    retire_at: datetime
    not_after: datetime


class SigningKeys:
    """The keys of one gateway instance. A key is prepared, announced, then activated: in that order and no other."""

    def __init__(
        self, instance_id: str, signer: SvidSigner, clock: WallClock, *, lifetime: timedelta = KEY_LIFETIME
    ) -> None:
        self._instance_id = instance_id
        self._signer = signer
        self._clock = clock
        self._lifetime = lifetime
        self._counter = 0
        self._keys: dict[str, SigningKey] = {}
        self._active: SigningKey | None = None

    def prepare(self) -> AnnouncedKey:
        """Makes the next key and vouches for it; it signs nothing before `activate`."""
        self._counter += 1
        kid = f"{self._instance_id}-{self._counter}"
        private = ec.generate_private_key(ec.SECP256R1())
        jwk = {**public_jwk(private.public_key()), "alg": "ES256", "kid": kid, "use": "sig"}
        retire_at = self._clock.now().replace(microsecond=0) + self._lifetime
        key = SigningKey(
            kid=kid,
            header=header_segment({"kid": kid, "typ": GRANT_TYPE}),
            private=private,
            jwk_json=json.dumps(jwk, sort_keys=True, separators=(",", ":")),
            retire_at=retire_at,
            not_after=retire_at + KEY_OVERLAP,
        )
        announced = self._announce(key)
        # Only now: while there is no SVID, every try would leave a key behind, and verifiers take a bounded number.
        self._keys[kid] = key
        return announced

    def activate(self, kid: str) -> None:
        """From now on the prepared key signs; the one before stays announced until its `not_after`."""
        self._active = self._keys[kid]

    def rotate(self, announce: Callable[[AnnouncedKey], None]) -> AnnouncedKey:
        """A new key: prepared, handed to `announce`, and active once that has returned."""
        announced = self.prepare()
        announce(announced)
        self.activate(announced.kid)
        return announced

    def active(self) -> SigningKey:
        """The key that signs now.

        Raises:
            NoKeyError: none is active, or it should have been replaced.
        """
        if self._active is None or self._clock.now() >= self._active.not_after:
            raise NoKeyError("no signing key is active: rotate the keys before granting")
        return self._active

    def forget(self) -> None:
        """No key signs any more, and none is announced again: what they have signed is not to be believed."""
        self._keys.clear()
        self._active = None

    def due(self) -> datetime:
        """When `rotate` is to be called next."""
        return self._active.retire_at if self._active is not None else self._clock.now()

    def announcements(self) -> tuple[AnnouncedKey, ...]:
        """Every key whose grants can be alive, vouched for by the SVID of now; to be published again when that rotates."""
        now = self._clock.now()
        self._keys = {kid: key for kid, key in self._keys.items() if now < key.not_after}
        return tuple(map(self._announce, self._keys.values()))

    def _announce(self, key: SigningKey) -> AnnouncedKey:
        signature, chain = self._signer.sign(key_message(key.kid, key.jwk_json, key.not_after))
        return AnnouncedKey(key.kid, key.jwk_json, key.not_after, chain, signature)
