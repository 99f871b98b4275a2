"""X.509-SVIDs: verified here or not at all. TLS stacks check less than SPIFFE demands (docs: X509-SVID, sections 2 to 5).

The steps of `verify_x509_svid` carry their numbers:

1. bounds: how many certificates, how large
2. parse the leaf and the intermediates
3. the leaf has exactly one URI SAN (X509-SVID, section 2)
4. which is a SPIFFE ID with a path (X509-SVID, sections 2 and 3.1; SPIFFE-ID, section 2)
5. the leaf is a leaf: `cA` false, critical key usage for signing only, EKU for both sides (X509-SVID, sections 4.1, 4.3, 4.4)
6. its key is strong enough
7. times of the leaf
8. the bundle of the ID's own trust domain, and no other (X509-SVID, section 5.2; Trust Domain and Bundle, section 3)
9. intermediates are signing certificates (X509-SVID, sections 4.1 and 4.3)
10. the path from the leaf to that bundle (RFC 5280, section 6)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from stepgrant.errors import InvalidIdError, InvalidSvidError
from stepgrant.spiffe.bundles import MAX_CERTIFICATE_BYTES, UNREADABLE, BundleSet, split_der
from stepgrant.spiffe.ids import SpiffeId, parse_spiffe_id

MAX_CHAIN: Final = 8
"""Certificates of a chain, the leaf included: SPIRE's nested topologies stay below five."""
MAX_CHAIN_BYTES: Final = MAX_CHAIN * MAX_CERTIFICATE_BYTES * 2
"""Bytes of an encoded chain; PEM takes a third more than DER."""
MIN_RSA_BITS: Final = 2048

_Kind = TypeVar("_Kind", bound=x509.ExtensionType)
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


@dataclass(frozen=True, slots=True)
class VerifiedSvid:
    """An X.509-SVID that verified. `not_after` is the least of its whole path; `leaf_sha256` is 32 bytes over the DER.

    `public_key_spki` is the leaf's key as DER; `bundle_revision` names the bundle that vouched for it.
    """

    spiffe_id: SpiffeId
    not_before: datetime
    not_after: datetime
    leaf_sha256: bytes
    leaf_der: bytes = field(repr=False)
    intermediates_der: tuple[bytes, ...] = field(repr=False)
    public_key_spki: bytes = field(repr=False)
    bundle_revision: str


def verify_x509_svid(
    leaf_der: bytes, intermediates_der: Sequence[bytes], bundles: BundleSet, now: datetime
) -> VerifiedSvid:
    """The SVID that these certificates are, verified against the bundle of its own trust domain at `now` (aware).

    Raises:
        InvalidSvidError: it does not verify; the text names the rule that it breaks.
    """
    # 1.
    if 1 + len(intermediates_der) > MAX_CHAIN:
        raise InvalidSvidError(f"the chain has {1 + len(intermediates_der)} certificates, more than {MAX_CHAIN}")
    if any(len(der) > MAX_CERTIFICATE_BYTES for der in (leaf_der, *intermediates_der)):
        raise InvalidSvidError(f"a certificate of the chain takes more than {MAX_CERTIFICATE_BYTES} bytes")
    # 2.
    leaf = _parse(leaf_der, "the leaf")
    intermediates = [_parse(der, "an intermediate") for der in intermediates_der]
    # 3., 4.
    spiffe_id = _spiffe_id(leaf)
    # 5.
    _check_leaf(leaf, spiffe_id)
    # 6.
    _check_key(leaf, spiffe_id)
    # 7.
    if now < leaf.not_valid_before_utc:
        raise InvalidSvidError(f"the SVID of {spiffe_id} is not valid before {leaf.not_valid_before_utc:%FT%TZ}")
    if now > leaf.not_valid_after_utc:
        raise InvalidSvidError(
            f"the SVID of {spiffe_id} expired at {leaf.not_valid_after_utc:%FT%TZ}: the workload must fetch a new one"
        )
    # 8.
    bundle = bundles.get(spiffe_id.trust_domain)
    if bundle is None or not bundle.authorities:
        raise InvalidSvidError(
            f"nothing of trust domain {spiffe_id.trust_domain} is trusted here: there is no bundle for it"
        )
    roots = [_parse(der, f"an authority of {bundle.trust_domain}") for der in bundle.authorities]
    # 9.
    for intermediate in intermediates:
        _check_intermediate(intermediate, spiffe_id)
    # 10.
    path = _path(leaf, intermediates, roots, spiffe_id, now)
    return VerifiedSvid(
        spiffe_id=spiffe_id,
        not_before=max(certificate.not_valid_before_utc for certificate in path),
        not_after=min(certificate.not_valid_after_utc for certificate in path),
        leaf_sha256=hashlib.sha256(leaf_der).digest(),
        leaf_der=leaf_der,
        intermediates_der=tuple(intermediates_der),
        public_key_spki=leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        bundle_revision=bundle.revision,
    )


def claimed_id(leaf_der: bytes) -> SpiffeId:
    """The SPIFFE ID that a leaf claims; nothing about it is verified.

    Raises:
        InvalidSvidError: it claims none, or more than one.
    """
    return _spiffe_id(_parse(leaf_der, "the leaf"))


def chain_from_pem(pem: bytes) -> tuple[bytes, ...]:
    """The certificates of a PEM file as DER, in their order: leaf first. At least one, at most `MAX_CHAIN`.

    Raises:
        InvalidSvidError: no such chain.
    """
    if len(pem) > MAX_CHAIN_BYTES or pem.count(b"-----BEGIN") > MAX_CHAIN:
        raise InvalidSvidError(f"the chain is larger than {MAX_CHAIN} certificates or {MAX_CHAIN_BYTES} bytes")
    try:
        return tuple(certificate.public_bytes(Encoding.DER) for certificate in x509.load_pem_x509_certificates(pem))
    except UNREADABLE as error:
        raise InvalidSvidError("the chain is not PEM with at least one certificate, leaf first") from error


def chain_from_der(der: bytes) -> tuple[bytes, ...]:
    """The DER certificates that stand one after the other, leaf first. At least one, at most `MAX_CHAIN`.

    Raises:
        InvalidSvidError: no such chain.
    """
    if len(der) > MAX_CHAIN_BYTES:
        raise InvalidSvidError(f"the chain takes more than {MAX_CHAIN_BYTES} bytes")
    try:
        chain = split_der(der, MAX_CHAIN)
    except ValueError as error:
        raise InvalidSvidError(f"the chain is not DER certificates one after the other: {error}") from error
    if not chain:
        raise InvalidSvidError("the chain is empty")
    return chain


def _parse(der: bytes, what: str) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        _ = certificate.extensions  # parsed lazily: an extension twice, or a broken one, shows only here
        _ = certificate.public_key()
    except Exception as error:  # the parser raises many types; each of them means the same
        raise InvalidSvidError(f"{what} is not an X.509 certificate that can be read") from error
    return certificate


def _spiffe_id(leaf: x509.Certificate) -> SpiffeId:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise InvalidSvidError("the leaf has no subject alternative name, so no SPIFFE ID") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise InvalidSvidError(f"the leaf has {len(uris)} URI SANs; an X.509-SVID has exactly one")
    try:
        spiffe_id = parse_spiffe_id(uris[0], what="the URI SAN of the leaf")
    except InvalidIdError as error:
        raise InvalidSvidError(str(error)) from error
    if not spiffe_id.path:
        raise InvalidSvidError(
            f"the leaf is for {spiffe_id}, which has no path: that names a trust domain, no workload"
        )
    return spiffe_id


def _check_leaf(leaf: x509.Certificate, spiffe_id: SpiffeId) -> None:
    constraints = _extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.value.ca:
        raise InvalidSvidError(f"the leaf of {spiffe_id} is a CA certificate (cA is true)")
    usage = _extension(leaf, x509.KeyUsage)
    if usage is None or not usage.critical:
        raise InvalidSvidError(f"the leaf of {spiffe_id} has no critical key usage")
    if usage.value.key_cert_sign or usage.value.crl_sign:
        raise InvalidSvidError(f"the leaf of {spiffe_id} may sign certificates or CRLs (keyCertSign, cRLSign)")
    if not usage.value.digital_signature:
        raise InvalidSvidError(f"the leaf of {spiffe_id} has no key usage digitalSignature")
    extended = _extension(leaf, x509.ExtendedKeyUsage)
    both = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    if extended is not None and not both.issubset(extended.value):
        raise InvalidSvidError(f"the leaf of {spiffe_id} has an extended key usage without serverAuth and clientAuth")


def _check_key(leaf: x509.Certificate, spiffe_id: SpiffeId) -> None:
    key = leaf.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
        return
    raise InvalidSvidError(
        f"the key of {spiffe_id} is neither RSA of at least {MIN_RSA_BITS} bits nor on the curve P-256, P-384 or P-521"
    )


def _check_intermediate(certificate: x509.Certificate, spiffe_id: SpiffeId) -> None:
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is None or not constraints.value.ca:
        raise InvalidSvidError(f"an intermediate in the chain of {spiffe_id} is no CA certificate (cA is false)")
    usage = _extension(certificate, x509.KeyUsage)
    if usage is None or not usage.value.key_cert_sign:
        raise InvalidSvidError(f"an intermediate in the chain of {spiffe_id} may not sign certificates (keyCertSign)")


def _extension(certificate: x509.Certificate, kind: type[_Kind]) -> x509.Extension[_Kind] | None:
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def _path(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    spiffe_id: SpiffeId,
    now: datetime,
) -> Sequence[x509.Certificate]:
    # SPIFFE demands no key identifiers (the Web PKI does); the leaf's own rules are step 5.
    either = Criticality.AGNOSTIC
    authorities = ExtensionPolicy.webpki_defaults_ca().may_be_present(x509.SubjectKeyIdentifier, either, None)
    leaves = (
        ExtensionPolicy.webpki_defaults_ee()
        .may_be_present(x509.AuthorityKeyIdentifier, either, None)
        .require_present(x509.SubjectAlternativeName, either, None)
        .may_be_present(x509.ExtendedKeyUsage, either, None)
    )
    builder = PolicyBuilder().store(Store(list(roots))).time(now.astimezone(UTC)).max_chain_depth(MAX_CHAIN)
    verifier = builder.extension_policies(ca_policy=authorities, ee_policy=leaves).build_client_verifier()
    try:
        path = verifier.verify(leaf, list(intermediates)).chain
    except VerificationError as error:
        raise InvalidSvidError(
            f"no path leads from the leaf of {spiffe_id} to an authority of {spiffe_id.trust_domain}: {error}"
        ) from error
    if len(path) < 2:
        # The verifier accepts what is in the store; a leaf that got into a bundle still has to be signed by an authority.
        raise InvalidSvidError(f"the leaf of {spiffe_id} is an authority itself: a bundle holds CA certificates only")
    return path
