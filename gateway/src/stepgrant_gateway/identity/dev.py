"""An embedded trust domain, `dev.stepgrant.test` unless it is told otherwise: a CA that lives in memory and dies with the process."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stepgrant.compact import base64url
from stepgrant.jwk import public_jwk, thumbprint
from stepgrant.jws import sign_jws
from stepgrant.spiffe.bundles import X509Bundle
from stepgrant.spiffe.ids import SpiffeId
from stepgrant_gateway.core.errors import ConfigError

DEV_TRUST_DOMAIN: Final = "dev.stepgrant.test"
SVID_TTL: Final = timedelta(hours=1)
JWT_TTL: Final = timedelta(minutes=5)
REFRESH_HINT_SECONDS: Final = 10
AUTHORITY_TTL: Final = timedelta(days=365)
BACKDATED: Final = timedelta(seconds=30)
"""How far before its issue an SVID is valid from: what other clocks on one machine may differ by."""


@dataclass(frozen=True, slots=True)
class DevIdentity:
    """One identity of dev.toml: `path` without leading slash. A server needs one of `dns` for gRPC to connect to it."""

    path: str
    dns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DevSvid:
    """An issued SVID: `chain_der` leaf first, `key_der` PKCS#8."""

    spiffe_id: SpiffeId
    chain_der: tuple[bytes, ...] = field(repr=False)
    key_der: bytes = field(repr=False)
    not_after: datetime


class DevTrustDomain:
    """The throw-away CA of `identities`. `now` is the wall clock, aware.

    Each X.509-SVID is valid for `svid_ttl`, each JWT-SVID for `jwt_ttl` (whole seconds).
    """

    def __init__(
        self,
        identities: Iterable[DevIdentity],
        now: Callable[[], datetime],
        *,
        svid_ttl: timedelta = SVID_TTL,
        jwt_ttl: timedelta = JWT_TTL,
        trust_domain: str = DEV_TRUST_DOMAIN,
    ) -> None:
        self.trust_domain = trust_domain
        self.identities: Mapping[str, DevIdentity] = {identity.path: identity for identity in identities}
        self.svid_ttl = svid_ttl
        self.jwt_ttl = jwt_ttl
        self._now = now
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, trust_domain)])
        self._root = self._self_signed()
        self.bundle = X509Bundle(trust_domain, (self._root.public_bytes(Encoding.DER),))
        self._jwt_key = ec.generate_private_key(ec.SECP256R1())
        self._kid = base64url(thumbprint(self._jwt_key.public_key()))

    def issue(self, path: str) -> DevSvid:
        """A fresh SVID and key for the identity of this path.

        Raises:
            ConfigError: dev.toml lists no such identity.
        """
        identity, spiffe_id = self._listed(path), self.spiffe_id(path)
        key = ec.generate_private_key(ec.SECP256R1())
        now = self._now().replace(microsecond=0)
        not_after = min(now + self.svid_ttl, self._root.not_valid_after_utc)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(spiffe_id))]
        names += [x509.DNSName(name) for name in identity.dns]
        leaf = (
            self._builder(key.public_key(), now - BACKDATED, not_after)
            .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "stepgrant dev")]))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return DevSvid(
            spiffe_id=spiffe_id,
            chain_der=(leaf.public_bytes(Encoding.DER),),
            key_der=key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            not_after=not_after,
        )

    @property
    def jwks(self) -> bytes:
        """The JWT authority, as the Workload API sends it: a JWKS."""
        key = {**public_jwk(self._jwt_key.public_key()), "kid": self._kid, "use": "jwt-svid"}
        return json.dumps({"keys": [key]}).encode("ascii")

    def issue_jwt(self, path: str, audience: Sequence[str]) -> str:
        """A fresh JWT-SVID of the identity of this path.

        Raises:
            ConfigError: dev.toml lists no such identity.
        """
        now = int(self._now().timestamp())
        claims = {
            "sub": str(self.spiffe_id(path)),
            "aud": list(audience),
            "iat": now,
            "exp": now + self.jwt_ttl // timedelta(seconds=1),
        }
        return sign_jws({"kid": self._kid, "typ": "JWT"}, json.dumps(claims).encode("utf-8"), self._jwt_key)

    def spiffe_id(self, path: str) -> SpiffeId:
        """The ID of the identity of this path.

        Raises:
            ConfigError: dev.toml lists no such identity.
        """
        return SpiffeId(self.trust_domain, f"/{self._listed(path).path}")

    @property
    def document(self) -> bytes:
        """The SPIFFE bundle document of this trust domain; its sequence is the second of the authority's making."""
        keys = [{**_root_jwk(der), "use": "x509-svid"} for der in self.bundle.authorities]
        keys += json.loads(self.jwks)["keys"]
        sequence = int(self._root.not_valid_before_utc.timestamp())
        members = {"keys": keys, "spiffe_sequence": sequence, "spiffe_refresh_hint": REFRESH_HINT_SECONDS}
        return json.dumps(members, indent=2).encode("ascii") + b"\n"

    def _listed(self, path: str) -> DevIdentity:
        identity = self.identities.get(path)
        if identity is None:
            listed = ", ".join(sorted(self.identities)) or "none"
            raise ConfigError(f"dev.toml lists no identity {path!r}; it has {listed}")
        return identity

    def _self_signed(self) -> x509.Certificate:
        now = self._now().replace(microsecond=0)
        return (
            self._builder(self._key.public_key(), now - BACKDATED * 2, now + AUTHORITY_TTL)
            .subject_name(self._name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def _builder(
        self, key: ec.EllipticCurvePublicKey, not_before: datetime, not_after: datetime
    ) -> x509.CertificateBuilder:
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before)
            .not_valid_after(not_after)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(issuer, critical=False)
        )


def _root_jwk(der: bytes) -> dict[str, Any]:
    key = x509.load_der_x509_certificate(der).public_key()
    members: dict[str, Any] = public_jwk(key) if isinstance(key, ec.EllipticCurvePublicKey) else {}
    return {**members, "x5c": [base64.b64encode(der).decode("ascii")]}


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
