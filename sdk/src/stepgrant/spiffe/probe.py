"""Authenticates a server by its SPIFFE ID, and pins it: gRPC's own check knows DNS names only.

One handshake with each address of the server, on the standard `ssl` module, brings its certificates; they are verified as
an X.509-SVID, the ID must be the expected one, and the channel then trusts exactly those leaves. An impostor with the same
DNS name from the same CA is not among them. Probe again when a connection fails, at `not_after`, and on a bundle change.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from stepgrant.errors import GatewayUnavailableError, InvalidSvidError, NobodyListensError
from stepgrant.spiffe.bundles import BundleSet
from stepgrant.spiffe.ids import SpiffeId
from stepgrant.spiffe.source import IdentitySnapshot
from stepgrant.spiffe.x509 import MAX_CHAIN, VerifiedSvid, verify_x509_svid

if TYPE_CHECKING:
    import grpc

MAX_ADDRESSES: Final = 16
"""Addresses behind one name that are probed and pinned."""
PROBE_TIMEOUT: Final = timedelta(seconds=5)
MAX_KEY_PEM_BYTES: Final = 16 * 1024
"""What fits into a pipe on every system that we run on."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PinnedServer:
    """A server that proved its SPIFFE ID at each address: the SVIDs it showed, and the DNS name that all of them carry.

    `not_after` is the least of them.
    """

    spiffe_id: SpiffeId
    svids: tuple[VerifiedSvid, ...] = field(repr=False)
    server_name: str
    not_after: datetime

    @property
    def leaves_pem(self) -> bytes:
        """The verified leaves as PEM: the only roots of the channel."""
        leaves = (x509.load_der_x509_certificate(svid.leaf_der) for svid in self.svids)
        return b"".join(leaf.public_bytes(Encoding.PEM) for leaf in leaves)


def probe_server(
    host: str,
    port: int,
    expected_id: SpiffeId,
    snapshot: IdentitySnapshot,
    now: datetime,
    timeout: timedelta = PROBE_TIMEOUT,
) -> PinnedServer:
    """The server behind every address of `host`, once it proved to be `expected_id`. Blocking: `timeout` each for connect and handshake.

    An address that does not answer, or answers as somebody else, is left out (and logged): the channel cannot reach it.

    Raises:
        GatewayUnavailableError: no address answered as `expected_id`; the text says what each did.
        NobodyListensError: all of them refused the connection.
    """
    try:
        resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise GatewayUnavailableError(f"{host} has no address: {error}; check the name") from error
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in resolved))[:MAX_ADDRESSES]
    context = _context(snapshot)

    def probe(place: tuple[int, Any]) -> VerifiedSvid | str | ConnectionRefusedError:
        try:
            chain = _handshake(*place, context, timeout)
            svid = verify_x509_svid(chain[0], chain[1:], snapshot.bundles, now)
        except ConnectionRefusedError as error:
            return error
        except (OSError, InvalidSvidError) as error:
            return str(error)
        if svid.spiffe_id != expected_id:
            return f"it is {svid.spiffe_id}"
        return svid

    with ThreadPoolExecutor(max_workers=len(addresses)) as pool:
        answers = list(pool.map(probe, addresses))
    for place, answer in zip(addresses, answers, strict=True):
        if not isinstance(answer, VerifiedSvid):
            _log.warning("%s is not at %s: %s", expected_id, place[1][0], answer)
    svids = tuple({one.leaf_sha256: one for one in answers if isinstance(one, VerifiedSvid)}.values())
    if not svids:
        refused = "; ".join(f"{place[1][0]}: {answer}" for place, answer in zip(addresses, answers, strict=True))
        silent = all(isinstance(answer, ConnectionRefusedError) for answer in answers)
        raise (NobodyListensError if silent else GatewayUnavailableError)(
            f"{host}:{port} did not prove to be {expected_id}: {refused}; "
            "check that it runs there, and the address and the SPIFFE ID that were asked for"
        )
    return PinnedServer(expected_id, svids, _server_name(svids), min(svid.not_after for svid in svids))


def recheck_server(pinned: PinnedServer, bundles: BundleSet, now: datetime) -> None:
    """Returns if all pinned leaves verify against `bundles` now; gRPC never looks again, so close the channel if not.

    Raises:
        InvalidSvidError: one of them does not.
    """
    for svid in pinned.svids:
        verify_x509_svid(svid.leaf_der, svid.intermediates_der, bundles, now)


def grpc_channel_credentials(
    snapshot: IdentitySnapshot, pinned: PinnedServer, *, show_certificate: bool = True
) -> tuple[grpc.ChannelCredentials, list[tuple[str, str]]]:
    """Credentials that trust `pinned` alone and show the certificate of `snapshot`, or none; and the channel options for them."""
    import grpc

    credentials = grpc.ssl_channel_credentials(
        root_certificates=pinned.leaves_pem,
        private_key=snapshot.private_key_pem if show_certificate else None,
        certificate_chain=snapshot.chain_pem if show_certificate else None,
    )
    return credentials, [("grpc.ssl_target_name_override", pinned.server_name)]


def unverified_chain(connection: ssl.SSLSocket) -> tuple[bytes, ...]:
    """The DER certificates that the peer sent, leaf first: nothing about them is verified.

    Python has a public call for it from 3.13 on; before, only that of the inner object.
    """
    public: Callable[[], Sequence[Any]] | None = getattr(connection, "get_unverified_chain", None)
    if public is not None:
        return tuple(bytes(one) for one in public() or ())
    chain = connection._sslobj.get_unverified_chain()  # type: ignore[attr-defined]  # noqa: SLF001 - see above
    return tuple(ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in chain or ())


def server_names(leaf_der: bytes) -> tuple[str, ...]:
    """The DNS names that gRPC can connect to a server with this leaf by: without DNS SAN, its common names."""
    leaf = x509.load_der_x509_certificate(leaf_der)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    dns = tuple(name for name in names.get_values_for_type(x509.DNSName) if "*" not in name)
    if dns:
        return dns
    return tuple(str(attribute.value) for attribute in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME))


def _handshake(family: int, address: Any, context: ssl.SSLContext, timeout: timedelta) -> tuple[bytes, ...]:
    with socket.socket(family, socket.SOCK_STREAM) as plain:
        plain.settimeout(timeout.total_seconds())
        plain.connect(address)
        with context.wrap_socket(plain) as connection:
            chain = unverified_chain(connection)
    if not 1 <= len(chain) <= MAX_CHAIN:
        raise InvalidSvidError(f"it showed {len(chain)} certificates; a chain has 1 to {MAX_CHAIN}")
    return chain


def _context(snapshot: IdentitySnapshot) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The handshake proves possession of the leaf's key; who that is, `verify_x509_svid` says.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    if not snapshot.chain_der:
        return context  # It has a token of another kind, which is nobody's business before it is known who is there.
    with tempfile.NamedTemporaryFile() as chain, _piped(snapshot.private_key_pem) as key:
        chain.write(snapshot.chain_pem)
        chain.flush()
        context.load_cert_chain(chain.name, key)
    return context


@contextlib.contextmanager
def _piped(secret: bytes) -> Iterator[str]:
    """A path that `secret` can be read from, once: `ssl` takes keys from files only, and a key must not get onto a disk."""
    if len(secret) > MAX_KEY_PEM_BYTES:
        raise InvalidSvidError(f"the private key takes more than {MAX_KEY_PEM_BYTES} bytes")
    reader, writer = os.pipe()
    try:
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(secret)
        yield f"/dev/fd/{reader}"
    finally:
        os.close(reader)


def _server_name(svids: Sequence[VerifiedSvid]) -> str:
    names = [server_names(svid.leaf_der) for svid in svids]
    for name in names[0]:
        if all(name in others for others in names):
            return name
    raise GatewayUnavailableError(
        f"the certificates of {svids[0].spiffe_id} share no DNS name, and gRPC cannot connect without one: "
        "register its SVID with a DNS name (SPIRE: -dns on the entry)"
    )
