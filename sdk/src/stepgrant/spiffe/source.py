"""Where a process has its identity from: the port `IdentitySource`, and the snapshot that it hands out."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from stepgrant.errors import InvalidBundleError, InvalidSvidError
from stepgrant.spiffe.bundles import BundleDocument, BundleSet
from stepgrant.spiffe.ids import SpiffeId
from stepgrant.spiffe.x509 import verify_x509_svid


@dataclass(frozen=True, slots=True)
class JwtSvid:
    """An own JWT-SVID; whether it verifies, its audience says."""

    spiffe_id: SpiffeId
    not_after: datetime
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class IdentitySnapshot:
    """An own X.509-SVID, its key and the bundles, as they were at one moment. Made by `take_snapshot` only.

    `chain_der` is leaf first; `private_key_pem` is PKCS#8 without password and never in `repr`; `leaf_sha256` is 32 bytes.
    With a `jwt_svid` that is what the gateway is shown, and the certificate is not; `not_after` is the earlier of both.
    """

    spiffe_id: SpiffeId
    chain_der: tuple[bytes, ...] = field(repr=False)
    private_key_pem: bytes = field(repr=False)
    bundles: BundleSet = field(repr=False)
    not_before: datetime
    not_after: datetime
    leaf_sha256: bytes = field(repr=False)
    jwt_svid: JwtSvid | None = None

    @property
    def credential_sha256(self) -> bytes:
        """SHA-256 of what the gateway is shown: of the JWT-SVID's characters, or of the leaf's DER."""
        if self.jwt_svid is None:
            return self.leaf_sha256
        return hashlib.sha256(self.jwt_svid.token.encode("ascii")).digest()

    @property
    def bearer(self) -> tuple[tuple[str, str], ...]:
        """The metadata that names us in each call to the gateway: none where the certificate does."""
        return () if self.jwt_svid is None else (("authorization", f"Bearer {self.jwt_svid.token}"),)

    @property
    def chain_pem(self) -> bytes:
        """The chain as PEM, leaf first."""
        return b"".join(_pem(der) for der in self.chain_der)


class IdentitySource(Protocol):
    """Brings the own SVID and the bundles, and keeps them fresh."""

    def current(self) -> IdentitySnapshot:
        """The newest snapshot whose SVID verifies now.

        Raises:
            IdentityUnavailableError: there is none.
        """

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Has `callback` called after each change, also when the identity is gone; call what is returned to end that.

        The call comes from whichever thread noticed the change: `callback` returns at once and raises nothing
        (asyncio: `loop.call_soon_threadsafe`).
        """

    def close(self) -> None:
        """Ends it; afterwards `current` raises. Harmless when closed already."""


def take_snapshot(
    chain_der: tuple[bytes, ...], private_key_pem: bytes, bundles: BundleSet, now: datetime
) -> IdentitySnapshot:
    """The snapshot of these, once the SVID verifies against `bundles` and the key is the leaf's.

    Raises:
        InvalidSvidError: it does not, or the key is another one's.
    """
    if not chain_der:
        raise InvalidSvidError("the own chain is empty")
    svid = verify_x509_svid(chain_der[0], chain_der[1:], bundles, now)
    try:
        key = load_pem_private_key(private_key_pem, None)
    except (ValueError, TypeError) as error:
        raise InvalidSvidError(f"the private key of {svid.spiffe_id} is not PEM without password") from error
    if key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != svid.public_key_spki:
        raise InvalidSvidError(f"the private key is not that of the leaf of {svid.spiffe_id}: install them as a pair")
    return IdentitySnapshot(
        spiffe_id=svid.spiffe_id,
        chain_der=chain_der,
        private_key_pem=private_key_pem,
        bundles=bundles,
        not_before=svid.not_before,
        not_after=svid.not_after,
        leaf_sha256=svid.leaf_sha256,
    )


def with_federated(snapshot: IdentitySnapshot, federated: Iterable[BundleDocument]) -> IdentitySnapshot:
    """`snapshot` with these bundles of further trust domains, each in the place of what it has for that one.

    Raises:
        InvalidBundleError: one is for the own trust domain, whose bundle comes with the own SVID only; or two are for one.
    """
    own, given = snapshot.spiffe_id.trust_domain, tuple(federated)
    named = {document.bundle.trust_domain for document in given}
    if own in named:
        raise InvalidBundleError(f"{own} is the own trust domain: nobody else says what its authorities are")
    kept = (bundle for bundle in snapshot.bundles if bundle.trust_domain not in named)
    kept_jwt = (bundle for bundle in snapshot.bundles.jwt_bundles if bundle.trust_domain not in named)
    bundles = BundleSet(
        (*kept, *(document.bundle for document in given)), (*kept_jwt, *(document.jwt_bundle for document in given))
    )
    return replace(snapshot, bundles=bundles)


def _pem(der: bytes) -> bytes:
    body = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"
