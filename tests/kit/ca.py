"""A test CA: SVIDs as they should be, and with each thing wrong that one may want wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from stepgrant.errors import IdentityUnavailableError
from stepgrant.spiffe.bundles import BundleSet, X509Bundle
from stepgrant.spiffe.source import IdentitySnapshot, take_snapshot
from tests.kit.clock import START

EARLY = datetime(2020, 1, 1, tzinfo=UTC)
LATE = datetime(2099, 1, 1, tzinfo=UTC)
"""Certificates hold from EARLY to LATE, so by ManualClock and by real TLS stacks, unless a test says otherwise."""

BOTH_SIDES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class IssuedSvid:
    """What an authority issued. `key` is the object behind `key_pem` (PKCS#8)."""

    chain_der: tuple[bytes, ...]
    key: Key = field(repr=False)

    @property
    def leaf_der(self) -> bytes:
        return self.chain_der[0]

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def chain_pem(self) -> bytes:
        return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in self.chain_der)


class TestAuthority:
    """The authority of one trust domain: a root, and with `intermediate=True` an intermediate that issues."""

    __test__ = False

    def __init__(self, trust_domain: str = "acme.org", *, intermediate: bool = False, root_not_after: datetime = LATE):
        self.trust_domain = trust_domain
        self.root_key = ec.generate_private_key(ec.SECP256R1())
        self.root = _authority(f"{trust_domain} root", self.root_key, None, self.root_key, root_not_after)
        self.intermediates: tuple[x509.Certificate, ...] = ()
        self._issuer, self._issuer_key = self.root, self.root_key
        if intermediate:
            self._issuer_key = ec.generate_private_key(ec.SECP256R1())
            self._issuer = _authority(f"{trust_domain} 1", self._issuer_key, self.root, self.root_key, LATE)
            self.intermediates = (self._issuer,)

    def bundle(self, trust_domain: str | None = None) -> X509Bundle:
        """The bundle with the root; under another trust domain's name where a test wants a mistake."""
        return X509Bundle(trust_domain or self.trust_domain, (self.root.public_bytes(Encoding.DER),))

    def issue(
        self,
        path: str,
        *,
        dns: Sequence[str] = (),
        common_name: str | None = None,
        not_before: datetime = EARLY,
        not_after: datetime = LATE,
        key: Key | None = None,
        uris: Sequence[str] | None = None,
        ca: bool | None = False,
        digital_signature: bool = True,
        key_cert_sign: bool = False,
        crl_sign: bool = False,
        key_usage: bool = True,
        key_usage_critical: bool = True,
        extended_key_usage: Iterable[ObjectIdentifier] | None = BOTH_SIDES,
        key_identifiers: bool = True,
        extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> IssuedSvid:
        """An SVID for `path` in the own trust domain (with or without leading slash), or for a whole `spiffe://` ID.

        `uris` replaces the URI SANs; `ca=None` and `extended_key_usage=None` leave the extension out.
        """
        spiffe_id = path if "://" in path else f"spiffe://{self.trust_domain}/{path.lstrip('/')}"
        key = key or ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "test")]
        if common_name is not None:
            attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(uri) for uri in (uris if uris is not None else [spiffe_id])
        ]
        names += [x509.DNSName(name) for name in dns]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(attributes))
            .issuer_name(self._issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before)
            .not_valid_after(not_after)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        if key_usage:
            usage = _usage(digital_signature=digital_signature, key_cert_sign=key_cert_sign, crl_sign=crl_sign)
            builder = builder.add_extension(usage, critical=key_usage_critical)
        if extended_key_usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(list(extended_key_usage)), critical=False)
        if key_identifiers:
            builder = _identified(builder, key, self._issuer_key)
        for extension, critical in extra:
            builder = builder.add_extension(extension, critical=critical)
        leaf = builder.sign(self._issuer_key, hashes.SHA256())
        return IssuedSvid(tuple(cert.public_bytes(Encoding.DER) for cert in (leaf, *self.intermediates)), key)

    def snapshot(
        self,
        path: str,
        *,
        dns: Sequence[str] = (),
        not_after: datetime = LATE,
        now: datetime = START,
        federated: Iterable[X509Bundle] = (),
    ) -> IdentitySnapshot:
        """A snapshot of a fresh SVID with the own bundle and `federated` ones."""
        return snapshot(self.issue(path, dns=dns, not_after=not_after), self.bundle(), *federated, now=now)


def snapshot(svid: IssuedSvid, *bundles: X509Bundle, now: datetime = START) -> IdentitySnapshot:
    """The snapshot of an issued SVID with these bundles."""
    return take_snapshot(svid.chain_der, svid.key_pem, BundleSet(bundles), now)


class FixedSource:
    """An `IdentitySource` that the test feeds: `put` changes it, `put(None)` takes the identity away."""

    def __init__(self, first: IdentitySnapshot | None) -> None:
        self._snapshot = first
        self._subscribers: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def current(self) -> IdentitySnapshot:
        if self._snapshot is None:
            raise IdentityUnavailableError("the test has taken the identity away")
        return self._snapshot

    def put(self, snapshot: IdentitySnapshot | None) -> None:
        self._snapshot = snapshot
        with self._lock:
            subscribers = list(self._subscribers)
        for subscriber in subscribers:
            subscriber()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        with self._lock:
            self._subscribers.append(callback)

        def unsubscribe() -> None:
            with self._lock:
                if callback in self._subscribers:
                    self._subscribers.remove(callback)

        return unsubscribe

    def close(self) -> None:
        self._snapshot = None


def look_alike(original: TestAuthority, trust_domain: str, *, identified: bool = True) -> X509Bundle:
    """What a hostile partner may publish: an authority with the name, and the key identifier, of another one's root."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = original.root.subject
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(EARLY - timedelta(days=1))
        .not_valid_after(LATE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=False, key_cert_sign=True, crl_sign=True), critical=True)
    )
    if identified:
        builder = _identified(builder, original.root_key, original.root_key)
    return X509Bundle(trust_domain, (builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER),))


def _authority(
    name: str, key: Key, issuer: x509.Certificate | None, issuer_key: Key, not_after: datetime
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(EARLY - timedelta(days=1))
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=False, key_cert_sign=True, crl_sign=True), critical=True)
    )
    return _identified(builder, key, issuer_key).sign(issuer_key, hashes.SHA256())


def _identified(builder: x509.CertificateBuilder, key: Key, issuer_key: Key) -> x509.CertificateBuilder:
    return builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
    ).add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)


def _usage(*, digital_signature: bool, key_cert_sign: bool, crl_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=not (digital_signature or key_cert_sign or crl_sign),
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
