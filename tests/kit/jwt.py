"""JWT authorities of trust domains, and JWT-SVIDs by them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from stepgrant.jose import parse_key
from stepgrant.spiffe.jwt_bundle import JwtBundle
from tests.kit.foreign import ForeignSigner


class JwtAuthority:
    """The JWT authority of one trust domain."""

    def __init__(self, trust_domain: str = "acme.org", kid: str = "one", algorithm: str = "ES256") -> None:
        self.trust_domain = trust_domain
        self.signer = ForeignSigner.of(algorithm, kid)

    def bundle(self, *others: JwtAuthority, trust_domain: str | None = None) -> JwtBundle:
        """The bundle of this authority, and of others for the same trust domain."""
        uses: frozenset[str | None] = frozenset({"jwt-svid"})
        keys = tuple(parse_key(one.signer.jwk(use="jwt-svid"), uses=uses) for one in (self, *others))
        return JwtBundle(trust_domain or self.trust_domain, keys)

    def issue(
        self, path: str, audience: object, now: datetime, *, lives: timedelta = timedelta(minutes=5), **claims: Any
    ) -> str:
        """The JWT-SVID of a path; a claim that is None is left out."""
        seconds = int(now.timestamp())
        sub = f"spiffe://{self.trust_domain}/{path}"
        whole = {"sub": sub, "aud": audience, "iat": seconds, "exp": seconds + int(lives.total_seconds())} | claims
        return self.signer.sign({name: value for name, value in whole.items() if value is not None})
