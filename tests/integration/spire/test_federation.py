"""Two SPIRE servers that federate: what comes through their bundle endpoints, and what a partner's authority is worth."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key
from jwt import PyJWK

from stepgrant.link import Address, parse_address
from stepgrant.v1 import agent_pb2_grpc
from stepgrant_gateway.system import SystemClock
from tests.faults.waiting import eventually
from tests.integration.spire.daemons import SpireAgent, SpireServer, free_port, real_spire
from tests.integration.spire.outside import channel_showing
from tests.integration.spire.processes import PATIENCE
from tests.integration.spire.site import (
    GATEWAY,
    LOCKED,
    MAIL,
    ORDERS,
    SUPPORT,
    TRUST_DOMAIN,
    Site,
    bare_site,
    distinct,
    events,
    goes_on,
    written,
)
from tests.kit.ca import IssuedSvid, TestAuthority
from tests.kit.foreign import ForeignSigner
from tests.kit.partners import PARTNER, PERMIT
from tests.kit.servers import ORDER

pytestmark = list(real_spire)

OURS = (SUPPORT, f"spiffe://{TRUST_DOMAIN}/agent/other")
THEIRS = f"spiffe://{PARTNER}/agent/support"
ENDPOINT = """federation {{ bundle_endpoint {{ address = "127.0.0.1", port = {port}, refresh_hint = "10s", profile "https_spiffe" {{}} }} }}"""

FEDERATION = f"""
[federation."{PARTNER}"]
url = "{{url}}"
profile = "https_spiffe"
endpoint_id = "spiffe://{PARTNER}/spire/server"
bootstrap = "partner-bundle.json"
"""

HANDING = f"""
@id("support-hands-on-to-the-partner")
permit (principal is Task::Refund, action == Action::"task.hand_off", resource)
when {{ context.hand_off.from in Workload::"{SUPPORT}" && context.hand_off.to in Workload::"{THEIRS}" }};
"""


@asynccontextmanager
async def two_domains() -> AsyncIterator[tuple[Site, SpireServer, SpireAgent]]:
    """Our site, the partner's server, and the partner's node. The partner knows our bundle; policy knows the partner's agent."""
    ports = free_port(), free_port()
    async with bare_site(svid_ttl=600, federation=ENDPOINT.format(port=ports[0])) as site:
        partner = SpireServer(site.folder / "p", PARTNER, site.stack, 600, ENDPOINT.format(port=ports[1]))
        await partner.begin()
        await introduce(partner, site.server)
        node = await partner.node("c")
        selector = f"unix:path:{site.python(THEIRS)}"
        await partner.tell(
            "entry", "create", "-spiffeID", THEIRS, "-parentID", node.node, "-selector", selector,
            "-federatesWith", f"spiffe://{TRUST_DOMAIN}",
        )  # fmt: skip
        await node.has_fetched(THEIRS)
        policy = site.folder / "policy"
        catalog, ours = policy / "catalog.yaml", f'workloads: ["spiffe://{TRUST_DOMAIN}/agent"'
        catalog.write_text(catalog.read_text().replace(ours, f'{ours}, "spiffe://{PARTNER}/agent"'))
        (policy / "partner.cedar").write_text(PERMIT)
        yield site, partner, node


@asynccontextmanager
async def federated() -> AsyncIterator[tuple[Site, SpireServer, SpireAgent]]:
    """As `two_domains`, and our server federates as well: gateway and resource have the partner's bundle from SPIRE."""
    async with two_domains() as (site, partner, node):
        await introduce(site.server, partner)
        await site.register(federates_with=f" -federatesWith spiffe://{PARTNER}")
        yield site, partner, node


async def introduce(server: SpireServer, other: SpireServer) -> None:
    """By the page's command, which is written for this partner."""
    bundle = server.folder / "theirs.json"
    bundle.write_text(await other.tell("bundle", "show", "-format", "spiffe"))
    line = written("federation create").replace(PARTNER, other.trust_domain)
    await server.type_in(line, {"URL": endpoint(other), "BUNDLE": str(bundle)})


def endpoint(server: SpireServer) -> str:
    """The URL of its bundle endpoint."""
    (port,) = re.findall(r"port = (\d+)", server.federation)
    return f"https://127.0.0.1:{port}"


async def test_a_partners_workload_gets_what_policy_gives_it_and_its_lock_is_not_ours() -> None:
    async with federated() as (site, _, node):
        await site.serve()
        address, _ = await site.orders()
        theirs, ours = await site.working(address, THEIRS, node=node), await site.working(address)
        await goes_on(theirs)
        await goes_on(ours)
        assert {task["workload"] for task in (await site.operate("tasks"))["tasks"]} == {SUPPORT, THEIRS}
        await site.operate("lock", "--workload", THEIRS, "--reason", "INC-43")
        assert await theirs.line("stopped") in LOCKED
        assert await theirs.line("not_opened") == "locked"
        await goes_on(ours)


async def test_id_16_a_partners_workload_works_on_a_branch_of_our_task_and_only_while_the_step_lives() -> None:
    async with federated() as (site, _, node):
        (site.folder / "policy" / "handing.cedar").write_text(HANDING)
        await site.serve()
        address, _ = await site.orders()
        program = ("-m", "tests.integration.spire.programs.handing", ORDERS, address)
        ours = await site.begin(SUPPORT, *program, THEIRS)
        slip = await ours.line("slip")
        theirs = await site.begin(THEIRS, *program, slip, node=node)
        assert await theirs.line("called") == f"orders.get {ORDER.order_id}"
        assert await theirs.line("denied") == "outside_envelope"
        assert [task["workload"] for task in (await site.operate("tasks"))["tasks"]] == [SUPPORT, THEIRS]
        await ours.end()
        await theirs.line("stopped")
        other = await site.begin(THEIRS, *program, slip, node=node)
        assert await other.line("stopped") == "hand_off_refused"


async def test_a_partners_new_authority_comes_through_its_bundle_endpoint_and_costs_no_step() -> None:
    async with federated() as (site, partner, node):
        await site.serve()
        address, orders = await site.orders()
        agent = await site.working(address, THEIRS, node=node)
        await goes_on(agent)
        retiring = (await partner.ask("localauthority", "x509", "show"))["active"]["authority_id"]
        coming = (await partner.ask("localauthority", "x509", "prepare"))["prepared_authority"]["authority_id"]
        await site.server.tell("federation", "refresh", "-id", f"spiffe://{PARTNER}")
        await orders.until(lambda said: any(one.get("authorities", {}).get(PARTNER) == 2 for one in said))
        await partner.tell("localauthority", "x509", "activate", "-authorityID", coming)
        await partner.tell("localauthority", "x509", "taint", "-authorityID", retiring)
        await agent.until(lambda said: len(distinct(said, "step")) == 2)

        await partner.tell("localauthority", "x509", "revoke", "-authorityID", retiring)
        await site.server.tell("federation", "refresh", "-id", f"spiffe://{PARTNER}")
        await orders.until(lambda said: said[-1].get("authorities", {}).get(PARTNER) == 1)
        await goes_on(agent)


async def test_our_gateway_fetches_bundles_from_a_spire_servers_endpoint_itself() -> None:
    """`https_spiffe`, by gateway.toml: from the bundle that was exchanged on to those that the endpoint then serves."""
    async with two_domains() as (site, partner, node):
        await site.register()
        (site.folder / "partner-bundle.json").write_text(await partner.tell("bundle", "show", "-format", "spiffe"))
        with (site.folder / "gateway.toml").open("a") as config:
            config.write(FEDERATION.format(url=endpoint(partner)))
        gateway = await site.serve()
        program = ("-m", "tests.integration.spire.programs.bearer", MAIL, await site.mail())
        agent = await site.begin(THEIRS, *program, node=node)
        await goes_on(agent)
        retiring = (await partner.ask("localauthority", "x509", "show"))["active"]["authority_id"]
        coming = (await partner.ask("localauthority", "x509", "prepare"))["prepared_authority"]["authority_id"]
        had = len(events(gateway, "bundle_updated"))
        await eventually(lambda: len(events(gateway, "bundle_updated")) > had, PATIENCE)
        await partner.tell("localauthority", "x509", "activate", "-authorityID", coming)
        await partner.tell("localauthority", "x509", "taint", "-authorityID", retiring)
        await agent.until(lambda said: len(distinct(said, "step")) == 2)
        await goes_on(agent)


async def test_id_01_our_id_signed_by_the_partners_real_authority_is_nobody_at_our_gateway() -> None:
    """SPIRE would not sign it; whoever has its key would. TLS lets it through, since it is an authority that we know."""
    async with federated() as (site, partner, _):
        await site.serve()
        root = x509.load_pem_x509_certificate((await partner.tell("bundle", "show")).encode())
        authority = TestAuthority(PARTNER)
        authority._issuer, authority._issuer_key = root, stolen(partner, root.public_key())
        assert (await opening(site.address, authority.issue(THEIRS)))[0] is None
        for ours in OURS:
            code, details = await opening(site.address, authority.issue(ours))
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert "no path leads" in details


async def test_id_01_our_id_in_a_token_by_the_partners_real_authority_is_nobody_at_our_gateway() -> None:
    async with federated() as (site, partner, _):
        bearer = parse_address(site.listen_bearer(), "the second listener")
        await site.serve()
        bundle = json.loads(await partner.tell("bundle", "show", "-format", "spiffe"))
        (jwk,) = (key for key in bundle["keys"] if key["use"] == "jwt-svid")
        signer = ForeignSigner("ES256", stolen(partner, PyJWK(jwk, "ES256").key), jwk["kid"])
        claims = {"aud": [GATEWAY], "exp": int(SystemClock().now().timestamp()) + 300}
        assert (await opening(bearer, None, signer.sign({**claims, "sub": THEIRS})))[0] is None
        for ours in OURS:
            code, details = await opening(bearer, None, signer.sign({**claims, "sub": ours}))
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert TRUST_DOMAIN in details


def stolen(partner: SpireServer, public: object) -> ec.EllipticCurvePrivateKey:
    """The partner's private key to this public one, from the server's disk."""
    keys = json.loads((partner.folder / "keys.json").read_text())["keys"].values()
    found = (load_der_private_key(base64.b64decode(der), None) for der in keys)
    (key,) = (one for one in found if isinstance(one, ec.EllipticCurvePrivateKey) and one.public_key() == public)
    return key


async def opening(address: Address, svid: IssuedSvid | None, token: str = "") -> tuple[grpc.StatusCode | None, str]:
    """How a stream is answered that shows this: with a challenge, or the status that it ends with."""
    metadata = [("authorization", f"Bearer {token}")] if token else []
    async with channel_showing(svid, address) as channel:
        try:
            await agent_pb2_grpc.AgentGatewayStub(channel).PerformTask(metadata=metadata).read()
        except grpc.aio.AioRpcError as error:
            return error.code(), str(error.details())
        return None, ""
