"""JWT authorities: the public keys that vouch for the JWT-SVIDs of one trust domain (JWT-SVID, section 6)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stepgrant.errors import InvalidBundleError, InvalidIdError, InvalidInputError
from stepgrant.jose import VerificationKey, parse_key
from stepgrant.spiffe.ids import parse_spiffe_id

MAX_JWT_AUTHORITIES: Final = 64
JWT_SVID_USE: Final = "jwt-svid"


@dataclass(frozen=True, slots=True)
class JwtBundle:
    """The JWT authorities of one trust domain, each by its own `kid`. Without any, no JWT-SVID of it is trusted.

    `revision` is `sha256:` and 64 hexadecimal digits over the trust domain and all that is known of each key, in their order.
    """

    trust_domain: str
    authorities: tuple[VerificationKey, ...] = field(repr=False, compare=False)
    revision: str = field(init=False)
    _by_kid: Mapping[str | None, VerificationKey] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_trust_domain(self.trust_domain)
        if len(self.authorities) > MAX_JWT_AUTHORITIES:
            raise InvalidBundleError(
                f"the bundle of {self.trust_domain} has more than {MAX_JWT_AUTHORITIES} JWT authorities"
            )
        by_kid = {authority.kid: authority for authority in self.authorities}
        if len(by_kid) != len(self.authorities):
            raise InvalidBundleError(f"two JWT authorities of {self.trust_domain} have the same `kid`")
        if None in by_kid:
            raise InvalidBundleError(f"a JWT authority of {self.trust_domain} has no `kid`")
        digest = hashlib.sha256(self.trust_domain.encode() + b"\0")
        for authority in self.authorities:
            der = authority.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            for part in ((authority.kid or "").encode(), ",".join(sorted(authority.algorithms)).encode(), der):
                digest.update(hashlib.sha256(part).digest())
        object.__setattr__(self, "revision", f"sha256:{digest.hexdigest()}")
        object.__setattr__(self, "_by_kid", by_kid)

    def get(self, kid: str) -> VerificationKey | None:
        """The authority of exactly this id."""
        return self._by_kid.get(kid)


def require_trust_domain(name: str) -> None:
    """Returns if bundles can be for `name`.

    Raises:
        InvalidBundleError: it is not a trust domain.
    """
    try:
        spiffe_id = parse_spiffe_id(f"spiffe://{name}", what="the bundle's ID")
    except InvalidIdError as error:
        raise InvalidBundleError(f"a bundle for what is not a trust domain: {error}") from error
    if spiffe_id.path:
        raise InvalidBundleError(f"a bundle is for a trust domain, not for a workload such as {spiffe_id}")


def read_jwt_authorities(trust_domain: str, keys: Sequence[object], *, use_said: bool) -> JwtBundle:
    """The JWT authorities among the keys of a JWKS; keys for something else are passed over.

    In a SPIFFE bundle document (`use_said`) each key says its `use`, and those are meant that say `jwt-svid` (Trust Domain
    and Bundle, section 4.2.2; JWT-SVID, section 6.1). What the Workload API sends holds nothing else, and SPIRE leaves `use`
    out there; it may still say `jwt-svid`.

    Raises:
        InvalidBundleError: an authority without `kid`, with that of another, or that no JWT-SVID can be verified with.
    """
    uses: frozenset[str | None] = frozenset({JWT_SVID_USE} if use_said else {JWT_SVID_USE, None})
    authorities: list[VerificationKey] = []
    for number, key in enumerate(keys):
        use = key.get("use") if isinstance(key, dict) else None
        if (isinstance(use, str) and use not in uses) or (use is None and use_said):
            continue
        try:
            authorities.append(parse_key(key, uses=uses))
        except InvalidInputError as error:
            raise InvalidBundleError(f"keys[{number}] in the bundle of {trust_domain}: {error}") from error
    return JwtBundle(trust_domain, tuple(authorities))
