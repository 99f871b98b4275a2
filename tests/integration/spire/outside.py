"""What the test itself does at a gateway: with SVIDs that SPIRE's server minted by hand, as somebody who stole them would."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from stepgrant.link import Address
from stepgrant.spiffe.bundles import BundleSet, bundle_from_pem
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.probe import grpc_channel_credentials, probe_server
from stepgrant.spiffe.source import IdentitySnapshot, take_snapshot
from stepgrant.spiffe.x509 import chain_from_pem
from stepgrant.v1 import verifier_pb2, verifier_pb2_grpc
from stepgrant_gateway.system import SystemClock
from tests.integration.spire.daemons import SpireServer
from tests.integration.spire.processes import PATIENCE
from tests.integration.spire.site import GATEWAY
from tests.kit.ca import IssuedSvid


async def minted(server: SpireServer, spiffe_id: str, *, ttl: str = "10m") -> IdentitySnapshot:
    """An SVID that no Workload API keeps fresh or takes away."""
    folder = server.folder / "minted"
    folder.mkdir(exist_ok=True)
    await server.tell("x509", "mint", "-spiffeID", spiffe_id, "-ttl", ttl, "-write", str(folder))
    chain = chain_from_pem((folder / "svid.pem").read_bytes())
    bundle = bundle_from_pem(server.trust_domain, (folder / "bundle.pem").read_bytes())
    return take_snapshot(chain, (folder / "key.pem").read_bytes(), BundleSet((bundle,)), SystemClock().now())


@asynccontextmanager
async def channel_as(snapshot: IdentitySnapshot, address: Address) -> AsyncIterator[grpc.aio.Channel]:
    """A bare channel that shows this SVID, pinned to the gateway."""
    pinned = await asyncio.to_thread(
        probe_server, address.host, address.port, parse_spiffe_id(GATEWAY), snapshot, SystemClock().now()
    )
    credentials, options = grpc_channel_credentials(snapshot, pinned)
    async with grpc.aio.secure_channel(address.target, credentials, options) as channel:
        yield channel


@asynccontextmanager
async def channel_showing(svid: IssuedSvid | None, address: Address) -> AsyncIterator[grpc.aio.Channel]:
    """A bare channel that shows whatever this is, or no certificate, to whoever is at the gateway's address."""
    leaf = x509.load_der_x509_certificate(await shown_by(address))
    (name,) = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.DNSName
    )
    pair = (svid.key_pem, svid.chain_pem) if svid is not None else (None, None)
    credentials = grpc.ssl_channel_credentials(leaf.public_bytes(Encoding.PEM), *pair)
    options = [("grpc.ssl_target_name_override", name)]
    async with grpc.aio.secure_channel(address.target, credentials, options) as channel:
        yield channel


async def watching(channel: grpc.aio.Channel, audience: str) -> Any:
    """A `Watch` call that has had its first answer."""
    call = verifier_pb2_grpc.GrantVerifierStub(channel).Watch(verifier_pb2.WatchRequest(audiences=[audience]))
    async with asyncio.timeout(PATIENCE):
        await call.read()
    return call


async def shown_by(address: Address) -> bytes:
    """The certificate that the gateway shows to a new connection now."""

    def handshake() -> bytes:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        with socket.create_connection((address.host, address.port), PATIENCE) as plain:
            with context.wrap_socket(plain) as connection:
                return connection.getpeercert(binary_form=True) or b""

    return await asyncio.to_thread(handshake)
