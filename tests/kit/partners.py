"""A gateway with a partner: two trust domains that know each other's bundles, over real mTLS, and whoever forges IDs."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from stepgrant.client import Client
from stepgrant.link import Address
from stepgrant.spiffe.bundles import BundleSet, X509Bundle
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.source import IdentitySnapshot, take_snapshot
from stepgrant_gateway.config import parse_config
from stepgrant_gateway.core.ports import Clock
from stepgrant_gateway.system import SystemClock, system_entropy
from stepgrant_gateway.wiring import Gateway, World
from tests.kit.ca import FixedSource, IssuedSvid, TestAuthority
from tests.kit.endpoints import Served
from tests.kit.running import ISSUER, SUPPORT_POLICY

OURS, PARTNER = "dev.stepgrant.test", "partner.test"
PATIENCE = 10
PERMIT = f"""
@id("partner-opens-refunds")
permit (principal is Task::Refund in Workload::"spiffe://{PARTNER}/agent/support", action == Action::"task.open", resource);
"""


@dataclass(slots=True)
class Partners:
    """Our gateway and resources, the partner's agents, and both authorities. Their SVIDs do not expire."""

    gateway: Gateway
    ours: TestAuthority
    partner: TestAuthority
    source: FixedSource
    stack: AsyncExitStack
    identities: dict[str, FixedSource] = field(default_factory=dict)

    def identity(self, path: str, *, of: TestAuthority | None = None) -> FixedSource:
        """The identity of that path, of our trust domain unless another is named; it knows both bundles."""
        authority = of or self.ours
        name = f"{authority.trust_domain}/{path}"
        if name not in self.identities:
            other = self.partner if authority is self.ours else self.ours
            snapshot = authority.snapshot(path, dns=["localhost"], federated=[other.bundle()])
            self.identities[name] = FixedSource(snapshot)
        return self.identities[name]

    def client(self, path: str = "agent/support", *, of: TestAuthority | None = None) -> Client:
        """The real SDK client of that workload."""
        client = Client(Address("localhost", self.gateway.port), parse_spiffe_id(ISSUER), self.identity(path, of=of))
        self.stack.push_async_callback(client.close)
        return client

    async def showing(self, svid: IssuedSvid | None, target: str, server: IdentitySnapshot) -> grpc.aio.Channel:
        """A channel of who shows `svid`, whatever that is, or nothing, to the server that is `server`."""
        leaf = x509.load_der_x509_certificate(server.chain_der[0]).public_bytes(Encoding.PEM)
        shown = (svid.key_pem, svid.chain_pem) if svid is not None else ()
        credentials = grpc.ssl_channel_credentials(leaf, *shown)
        options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
        return await self.stack.enter_async_context(grpc.aio.secure_channel(target, credentials, options))

    async def recorded(self, kind: str, said: str = "") -> dict[str, Any]:
        """What the first event of that type says that says this, once it is durable."""
        async with asyncio.timeout(PATIENCE):
            async for record in self.gateway.application.recorder.tail(0, follow=True):
                body = json.loads(record.body)
                if body["type"] == kind and said in json.dumps(body["data"]):
                    return dict(body["data"])
        raise AssertionError(kind)

    async def types(self) -> list[str]:
        """The types of all events that are durable now."""
        tail = self.gateway.application.recorder.tail(0, follow=False)
        return [json.loads(record.body)["type"] async for record in tail]

    def trust(self, *bundles: X509Bundle) -> None:
        """From now on the gateway has these federated bundles and no others."""
        chain, key = self.source.current().chain_der, self.source.current().private_key_pem
        self.source.put(take_snapshot(chain, key, BundleSet((self.ours.bundle(), *bundles)), datetime.now(UTC)))


@asynccontextmanager
async def partners(
    folder: Path,
    partner: TestAuthority | None = None,
    *,
    settings: str | None = None,
    permits: str = "",
    clock: Clock | None = None,
) -> AsyncIterator[Partners]:
    """A gateway of our trust domain whose policy gives the partner's support agent refunds, as ours has them.

    It has the partner's bundle with its own identity, or by what `settings` say in gateway.toml; `permits` are further ones.
    """
    partner = partner or TestAuthority(PARTNER)
    policy = folder / "policy"
    shutil.copytree(SUPPORT_POLICY, policy)
    catalog = policy / "catalog.yaml"
    roots = f'workloads: ["spiffe://{OURS}/agent"'
    catalog.write_text(catalog.read_text().replace(roots, f'{roots}, "spiffe://{PARTNER}/agent"'))
    (policy / "partner.cedar").write_text(PERMIT + permits)
    config = parse_config(
        f"""
        [gateway]
        issuer = "{ISSUER}"
        listen = "127.0.0.1:0"
        listen_bearer = "127.0.0.1:0"
        policy = "{policy}"
        [identity]
        source = "workload_api"
        [ledger]
        insecure_memory = true
        [inputs]
        discard = true
        {settings or ""}
        """.encode(),
        folder / "gateway.toml",
    )
    ours = TestAuthority(OURS)
    federated = [partner.bundle()] if settings is None else []
    source = FixedSource(ours.snapshot("gateway", dns=["localhost"], federated=federated))
    async with (
        Gateway.start(config, World(clock or SystemClock(), system_entropy, source)) as gateway,
        AsyncExitStack() as stack,
    ):
        yield Partners(gateway, ours, partner, source, stack)


def by_endpoint(served: Served) -> str:
    """The lines of gateway.toml that fetch the partner's bundle from there."""
    return f"""
        [federation."{PARTNER}"]
        url = "{served.url}"
        profile = "https_spiffe"
        endpoint_id = "spiffe://{PARTNER}/spire/server"
        bootstrap = "partner.pem"
    """
