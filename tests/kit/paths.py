"""Certification paths, one certificate at a time, each with whatever wrong in it that RFC 5280 knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

from tests.kit.ca import EARLY, LATE

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_RSA_SHA256 = bytes.fromhex("06092a864886f70d01010b")
_RSA_SHA1 = bytes.fromhex("06092a864886f70d010105")
"""sha256WithRSAEncryption and sha1WithRSAEncryption (RFC 8017, appendix C), of one length."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and the key behind it; it issues others whatever it is."""

    certificate: x509.Certificate
    key: Key = field(repr=False)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def issue(self, name: str, **quirks: Any) -> Issued:
        """A certificate signed by this one's key in this one's name."""
        return issue(name, issuer=self, **quirks)


def issue(
    name: str,
    *,
    issuer: Issued | None = None,
    issuer_name: str | None = None,
    signer: Key | None = None,
    key: Key | None = None,
    ca: bool | None = True,
    path_length: int | None = None,
    usage: bool = True,
    key_cert_sign: bool | None = None,
    extended: Sequence[ObjectIdentifier] = (),
    constraints: x509.NameConstraints | None = None,
    uri: str | None = None,
    dns: str | None = None,
    not_before: datetime = EARLY,
    not_after: datetime = LATE,
    extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> Issued:
    """A CA certificate, with `uri` a leaf; `ca=None` leaves basic constraints out, `usage=False` the key usage.

    Without `issuer` it signs itself. `issuer_name` and `signer` say another issuer and another key than `issuer`'s.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = _named(name)
    given = issuer.certificate.subject if issuer else subject
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(given if issuer_name is None else _named(issuer_name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
    extensions: list[tuple[x509.ExtensionType, bool]] = list(extra)
    if ca is not None:
        extensions.append((x509.BasicConstraints(ca=ca, path_length=path_length if ca else None), True))
    if usage:
        signs = bool(ca) if key_cert_sign is None else key_cert_sign
        extensions.append((_usage(digital_signature=not signs, key_cert_sign=signs), True))
    if extended:
        extensions.append((x509.ExtendedKeyUsage(list(extended)), False))
    if constraints is not None:
        extensions.append((constraints, True))
    names: list[x509.GeneralName] = [] if uri is None else [x509.UniformResourceIdentifier(uri)]
    names += [] if dns is None else [x509.DNSName(dns)]
    if names:
        extensions.append((x509.SubjectAlternativeName(names), False))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return Issued(builder.sign(signer or (issuer.key if issuer else key), hashes.SHA256()), key)


def signed_with_sha1(issued: Issued, signer: rsa.RSAPrivateKey) -> bytes:
    """The same certificate, signed with RSA and SHA-1, which no library does any more: DER.

    Both algorithm identifiers and the signature keep their lengths, so nothing around them changes.
    """
    body = issued.certificate.tbs_certificate_bytes
    weak = body.replace(_RSA_SHA256, _RSA_SHA1)
    signature = signer.sign(weak, padding.PKCS1v15(), hashes.SHA1())
    return (
        issued.der.replace(body, weak).replace(_RSA_SHA256, _RSA_SHA1).replace(issued.certificate.signature, signature)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, digital_signature: bool, key_cert_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
