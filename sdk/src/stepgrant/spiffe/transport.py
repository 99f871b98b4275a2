"""What TLS lets through to a server: chains to an authority of any trust domain that is known. Who it is, is judged after.

TLS knows one pool of roots and no trust domains, so it is transport only: whoever comes through it is verified as an
X.509-SVID against the bundle of the ID's own trust domain, and no other (Trust Domain and Bundle, section 3).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stepgrant.spiffe.bundles import X509Bundle
from stepgrant.spiffe.source import IdentitySnapshot

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Root:
    """An authority as TLS sees it: it is looked up by its name, then by its key identifier if there is one."""

    trust_domain: str
    name: bytes
    identifier: bytes | None
    key: bytes
    pem: bytes

    def hides(self, other: _Root) -> bool:
        """True if TLS, in search of `other`, could find this one and stop there."""
        either = self.identifier == other.identifier or None in {self.identifier, other.identifier}
        foreign = self.trust_domain != other.trust_domain and self.key != other.key
        return self.name == other.name and either and foreign


def transport_roots(snapshot: IdentitySnapshot) -> bytes:
    """The authorities of the own trust domain, then of all others, as PEM: the root pool of a listener. Never empty.

    A foreign authority that TLS could take for one before it, or cannot read, is left out and logged: no partner can keep
    other workloads than its own out.
    """
    own = snapshot.bundles.get(snapshot.spiffe_id.trust_domain)
    pool = [] if own is None else list(_readable(own))
    for root in (root for bundle in snapshot.bundles if bundle is not own for root in _readable(bundle)):
        hidden = next((known for known in pool if root.hides(known)), None)
        if hidden is None:
            pool.append(root)
        else:
            _left_out(root.trust_domain, f"it looks like one of {hidden.trust_domain} and has another key")
    return b"".join(root.pem for root in pool)


def _readable(bundle: X509Bundle) -> Iterator[_Root]:
    for der in bundle.authorities:
        try:
            certificate = x509.load_der_x509_certificate(der)
            yield _Root(
                bundle.trust_domain,
                certificate.subject.public_bytes(),
                _identifier(certificate),
                certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
                certificate.public_bytes(Encoding.PEM),
            )
        except Exception as error:  # noqa: BLE001 - the parser raises many types; each of them means the same
            _left_out(bundle.trust_domain, f"it cannot be read: {error}")


def _identifier(certificate: x509.Certificate) -> bytes | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return None


def _left_out(trust_domain: str, why: str) -> None:
    _log.warning(
        "Workloads that an authority of %s vouches for cannot connect: %s.", trust_domain, why,
        extra={"event": "authority_left_out"},
    )  # fmt: skip
