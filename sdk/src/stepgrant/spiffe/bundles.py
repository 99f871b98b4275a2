"""Trust bundles: the authorities of one trust domain each, never merged (SPIFFE Trust Domain and Bundle).

X.509 and JWT authorities of one trust domain are bundles of two kinds: none of the one kind vouches for an SVID of the other.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from stepgrant.errors import InvalidBundleError
from stepgrant.spiffe.jwt_bundle import JwtBundle, read_jwt_authorities, require_trust_domain

MAX_AUTHORITIES: Final = 64
"""Certificates of one bundle: a rotation needs two, an operator with many regions some tens."""
MAX_CERTIFICATE_BYTES: Final = 16 * 1024
"""DER bytes of one certificate, of an authority or in a chain."""
MAX_BUNDLE_BYTES: Final = 1024 * 1024
"""Bytes of one encoded bundle, PEM, DER or JWKS."""
MAX_TRUST_DOMAINS: Final = 256
"""Bundles of one set: our own trust domain and the federated ones."""

UNREADABLE: Final = (ValueError, x509.InvalidVersion)
"""What the parser of certificates raises; its error for a version that is none is of neither family."""

_PEM_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_DER_SEQUENCE: Final = 0x30
_DER_LONG_FORM: Final = 0x80


@dataclass(frozen=True, slots=True)
class X509Bundle:
    """The X.509 authorities (DER) of one trust domain. Without any, nothing of that domain is trusted.

    `revision` is `sha256:` and 64 hexadecimal digits over the authorities in their order: equal bundles, equal revision.
    """

    trust_domain: str
    authorities: tuple[bytes, ...] = field(repr=False)
    revision: str = field(init=False)

    def __post_init__(self) -> None:
        require_trust_domain(self.trust_domain)
        if len(self.authorities) > MAX_AUTHORITIES:
            raise InvalidBundleError(
                f"the bundle of {self.trust_domain} has {len(self.authorities)} authorities, more than {MAX_AUTHORITIES}"
            )
        digest = hashlib.sha256(self.trust_domain.encode() + b"\0")
        for der in self.authorities:
            if len(der) > MAX_CERTIFICATE_BYTES:
                raise InvalidBundleError(f"an authority of {self.trust_domain} takes {len(der)} bytes of DER")
            digest.update(hashlib.sha256(der).digest())
        object.__setattr__(self, "revision", f"sha256:{digest.hexdigest()}")

    @property
    def pem(self) -> bytes:
        """The authorities as PEM, one block after the other; empty without any."""
        return b"".join(_to_pem(der) for der in self.authorities)


@dataclass(frozen=True, slots=True)
class BundleSet:
    """Bundles, each for its own trust domain. Look-up is the only operation: nothing here joins two of them.

    `jwt_bundles` holds the JWT authorities, of whichever of the trust domains they are known for.
    """

    bundles: tuple[X509Bundle, ...] = ()
    jwt_bundles: tuple[JwtBundle, ...] = ()
    _by_trust_domain: Mapping[str, X509Bundle] = field(init=False, repr=False, compare=False)
    _jwt_by_trust_domain: Mapping[str, JwtBundle] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if max(len(self.bundles), len(self.jwt_bundles)) > MAX_TRUST_DOMAINS:
            raise InvalidBundleError(f"{len(self.bundles)} bundles in one set, more than {MAX_TRUST_DOMAINS}")
        by_trust_domain = {bundle.trust_domain: bundle for bundle in self.bundles}
        jwt_by_trust_domain = {bundle.trust_domain: bundle for bundle in self.jwt_bundles}
        if len(by_trust_domain) != len(self.bundles) or len(jwt_by_trust_domain) != len(self.jwt_bundles):
            raise InvalidBundleError("two bundles for one trust domain: they are never merged; configure one")
        object.__setattr__(self, "_by_trust_domain", by_trust_domain)
        object.__setattr__(self, "_jwt_by_trust_domain", jwt_by_trust_domain)

    def get(self, trust_domain: str) -> X509Bundle | None:
        """The bundle of exactly this trust domain, or None: then nothing of that domain is trusted."""
        return self._by_trust_domain.get(trust_domain)

    def jwt(self, trust_domain: str) -> JwtBundle | None:
        """The JWT authorities of exactly this trust domain, or None: then no JWT-SVID of it is trusted."""
        return self._jwt_by_trust_domain.get(trust_domain)

    def __iter__(self) -> Iterator[X509Bundle]:
        """The X.509 bundles, in the order given."""
        return iter(self.bundles)


@dataclass(frozen=True, slots=True)
class BundleDocument:
    """A SPIFFE bundle document: both kinds of authorities, `spiffe_sequence`, and `spiffe_refresh_hint` in seconds (None = unset)."""

    bundle: X509Bundle
    jwt_bundle: JwtBundle
    sequence: int | None
    refresh_hint_seconds: int | None


def bundle_from_pem(trust_domain: str, pem: bytes) -> X509Bundle:
    """The bundle of the certificates in `pem`, at least one.

    Raises:
        InvalidBundleError: not certificates in PEM, none, or out of bounds.
    """
    _bounded(trust_domain, pem)
    if pem.count(_PEM_BEGIN) > MAX_AUTHORITIES:
        raise InvalidBundleError(f"the bundle of {trust_domain} has more than {MAX_AUTHORITIES} PEM blocks")
    try:
        authorities = x509.load_pem_x509_certificates(pem)
    except UNREADABLE as error:
        raise InvalidBundleError(
            f"the bundle of {trust_domain} is not a PEM file with at least one certificate"
        ) from error
    return X509Bundle(trust_domain, tuple(authority.public_bytes(Encoding.DER) for authority in authorities))


def parse_bundle(trust_domain: str, data: bytes) -> BundleDocument:
    """The bundle that a file holds: a SPIFFE bundle document, or PEM with at least one certificate, which says less.

    Raises:
        InvalidBundleError: neither of the two, or out of bounds.
    """
    if data.lstrip().startswith(b"{"):
        return bundle_from_jwks(trust_domain, data)
    return BundleDocument(bundle_from_pem(trust_domain, data), JwtBundle(trust_domain, ()), None, None)


def bundle_from_der(trust_domain: str, der: bytes) -> X509Bundle:
    """The bundle of DER certificates one after the other, as the Workload API sends it; no bytes = no authority.

    Raises:
        InvalidBundleError: not certificates in DER, or out of bounds.
    """
    _bounded(trust_domain, der)
    try:
        return _checked(trust_domain, split_der(der, MAX_AUTHORITIES))
    except UNREADABLE as error:
        raise InvalidBundleError(f"the bundle of {trust_domain} is not DER certificates: {error}") from error


def bundle_from_jwks(trust_domain: str, document: bytes) -> BundleDocument:
    """What a SPIFFE bundle document says: `x5c[0]` of each key with `use` `x509-svid` (X509-SVID, section 6.2), and the keys
    with `use` `jwt-svid` (JWT-SVID, section 6.1).

    Keys of other uses are passed over (Trust Domain and Bundle, section 4.2).

    Raises:
        InvalidBundleError: not such a document, or out of bounds.
    """
    jwks = _jwks(trust_domain, document)
    keys: list[Any] = jwks["keys"]
    authorities: list[bytes] = []
    for number, key in enumerate(keys):
        if not isinstance(key, dict):
            raise InvalidBundleError(f"keys[{number}] in the bundle of {trust_domain} is not an object")
        if key.get("use") == "x509-svid":
            authorities.append(_x5c(trust_domain, number, key.get("x5c")))
    try:
        bundle = _checked(trust_domain, authorities)
    except UNREADABLE as error:
        raise InvalidBundleError(f"an x5c of {trust_domain} is not a certificate in DER: {error}") from error
    jwt_bundle = read_jwt_authorities(trust_domain, keys, use_said=True)
    return BundleDocument(bundle, jwt_bundle, _count(jwks, "spiffe_sequence"), _count(jwks, "spiffe_refresh_hint"))


def jwt_bundle_from_jwks(trust_domain: str, document: bytes) -> JwtBundle:
    """The JWT authorities of a JWKS as the Workload API sends it (Workload API, section 6.2.2).

    Raises:
        InvalidBundleError: not such a document, or out of bounds.
    """
    return read_jwt_authorities(trust_domain, _jwks(trust_domain, document)["keys"], use_said=False)


def _jwks(trust_domain: str, document: bytes) -> dict[str, Any]:
    _bounded(trust_domain, document)
    try:
        # From bytes, `json` would also take UTF-16 and UTF-32, which nobody else reads (SPIFFE Federation, section 5.2.1.3).
        jwks: Any = json.loads(document.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise InvalidBundleError(f"the bundle of {trust_domain} is not strict JSON in UTF-8") from error
    if not isinstance(jwks, dict) or not isinstance(jwks.get("keys"), list):
        raise InvalidBundleError(f"the bundle of {trust_domain} has no array `keys`")
    return jwks


def split_der(concatenated: bytes, limit: int) -> tuple[bytes, ...]:
    """The DER values that stand one after the other in `concatenated`; at most `limit`, each within bounds.

    Raises:
        ValueError: not whole DER sequences, too many, or one too large.
    """
    parts: list[bytes] = []
    rest = memoryview(concatenated)
    while rest:
        if len(parts) == limit:
            raise ValueError(f"more than {limit} certificates")
        size = _der_size(rest)
        if size > len(rest):
            raise ValueError("the last certificate is cut short")
        parts.append(bytes(rest[:size]))
        rest = rest[size:]
    return tuple(parts)


def _der_size(data: memoryview) -> int:
    """Bytes of the DER sequence at the start of `data`, header included (X.690, section 8.1.3)."""
    if len(data) < 2 or data[0] != _DER_SEQUENCE:
        raise ValueError("not a DER sequence")
    first = data[1]
    if first < _DER_LONG_FORM:
        return 2 + first
    width = first - _DER_LONG_FORM
    if not 1 <= width <= 2 or len(data) < 2 + width:
        raise ValueError("a certificate of an impossible length")
    size = 2 + width + int.from_bytes(data[2 : 2 + width], "big")
    if size > MAX_CERTIFICATE_BYTES:
        raise ValueError(f"a certificate of more than {MAX_CERTIFICATE_BYTES} bytes")
    return size


def _checked(trust_domain: str, authorities: Sequence[bytes]) -> X509Bundle:
    bundle = X509Bundle(trust_domain, tuple(authorities))
    for der in bundle.authorities:
        x509.load_der_x509_certificate(der)
    return bundle


def _x5c(trust_domain: str, number: int, x5c: object) -> bytes:
    if not isinstance(x5c, list) or not x5c or not isinstance(x5c[0], str):
        raise InvalidBundleError(f"keys[{number}] in the bundle of {trust_domain} is x509-svid without a string x5c[0]")
    try:
        return base64.b64decode(x5c[0], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidBundleError(f"keys[{number}].x5c[0] in the bundle of {trust_domain} is not base64") from error


def _count(jwks: Mapping[str, Any], name: str) -> int | None:
    value = jwks.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidBundleError(f"`{name}` of the bundle is not an unsigned integer")
    return value


def _no_duplicates(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError("a name twice in one object")
        result[name] = value
    return result


def _bounded(trust_domain: str, encoded: bytes) -> None:
    if len(encoded) > MAX_BUNDLE_BYTES:
        raise InvalidBundleError(f"the bundle of {trust_domain:.255} takes more than {MAX_BUNDLE_BYTES} bytes")


def _to_pem(der: bytes) -> bytes:
    body = base64.b64encode(der)
    lines = b"\n".join(body[start : start + 64] for start in range(0, len(body), 64))
    return _PEM_BEGIN + b"\n" + lines + b"\n-----END CERTIFICATE-----\n"
