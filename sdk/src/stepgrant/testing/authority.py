"""A throw-away trust domain for tests: real certificates, real verification, nothing on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stepgrant.errors import IdentityUnavailableError
from stepgrant.spiffe.bundles import BundleSet, X509Bundle
from stepgrant.spiffe.source import IdentitySnapshot, take_snapshot
from stepgrant.spiffe.subscribers import Subscribers

LIFE: Final = timedelta(hours=1)
"""Of a test's certificates; they begin as long ago."""
SERVER_NAME: Final = "stepgrant.test"
"""DNS name in every certificate: gRPC cannot connect without one."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate chain, leaf first in DER, and its key in PEM (PKCS#8)."""

    chain_der: tuple[bytes, ...] = field(repr=False)
    key_pem: bytes = field(repr=False)

    @property
    def chain_pem(self) -> bytes:
        """The chain as PEM, leaf first."""
        return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in self.chain_der)


class ThrowAwayAuthority:
    """One self-signed authority and what it issues; gone with the object."""

    def __init__(self, trust_domain: str) -> None:
        self.trust_domain = trust_domain
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._root = (
            self._builder(_name(trust_domain), self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def root_pem(self) -> bytes:
        """The authority's certificate."""
        return self._root.public_bytes(Encoding.PEM)

    @property
    def bundles(self) -> BundleSet:
        """The one bundle of this trust domain."""
        return BundleSet((X509Bundle(self.trust_domain, (self._root.public_bytes(Encoding.DER),)),))

    def issue(self, path: str) -> Issued:
        """An X.509-SVID for `spiffe://<trust domain>/<path>`."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [
            x509.UniformResourceIdentifier(f"spiffe://{self.trust_domain}/{path}"),
            x509.DNSName(SERVER_NAME),
        ]
        leaf = (
            self._builder(_name(path), key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return Issued(
            (leaf.public_bytes(Encoding.DER),),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )

    def snapshot(self, path: str) -> IdentitySnapshot:
        """A freshly issued identity."""
        issued = self.issue(path)
        return take_snapshot(issued.chain_der, issued.key_pem, self.bundles, datetime.now(UTC))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(_name(self.trust_domain))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - LIFE)
            .not_valid_after(now + LIFE)
        )


class ScriptedIdentity:
    """An `IdentitySource` that the test moves: `become` another SVID or bundle, or None for no identity at all."""

    def __init__(self, snapshot: IdentitySnapshot | None) -> None:
        self._snapshot = snapshot
        self._subscribers = Subscribers()

    def current(self) -> IdentitySnapshot:
        """What the test said last."""
        if self._snapshot is None:
            raise IdentityUnavailableError("the test took the identity away")
        return self._snapshot

    def become(self, snapshot: IdentitySnapshot | None) -> None:
        """The identity is another one now, and whoever subscribed hears of it."""
        self._snapshot = snapshot
        self._subscribers.notify()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` after each `become`."""
        return self._subscribers.add(callback)

    def close(self) -> None:
        """Takes the identity away."""
        self._snapshot = None


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
