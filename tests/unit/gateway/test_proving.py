"""Who is believed, as gateway.toml says it: each by their own kind of proof, and nobody by another's."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from stepgrant.errors import InvalidInputError
from stepgrant.spiffe.bundles import BundleSet
from stepgrant.spiffe.source import take_snapshot
from stepgrant_gateway.config import Config, parse_config
from stepgrant_gateway.core.decision import Refused
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.core.principal import Subject
from stepgrant_gateway.identity.oidc_keys import REFRESH
from stepgrant_gateway.proving import proving
from tests.kit.ca import FixedSource, TestAuthority
from tests.kit.clock import START, ManualClock
from tests.kit.foreign import ForeignSigner
from tests.kit.jwt import JwtAuthority
from tests.kit.oidc import AUDIENCE, Issuer, logout_claims

GATEWAY = "spiffe://acme.org/gateway"
USERS, RUNNERS = Issuer("https://login.acme.test"), Issuer("https://ci.acme.test", "ES256")
OWNER = {"owner": "acme"}


class Scene:
    """What a gateway has of the world, and its configuration."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, ManualClock()
        self.authority, self.jwt = TestAuthority(), JwtAuthority()
        svid, bundles = self.authority.issue("gateway"), BundleSet((self.authority.bundle(),), (self.jwt.bundle(),))
        self.source = FixedSource(take_snapshot(svid.chain_der, svid.key_pem, bundles, START))
        (folder / "users.json").write_bytes(USERS.jwks)
        (folder / "runners.json").write_bytes(RUNNERS.jwks)

    def config(self, *, issuers: bool = True) -> Config:
        said = f"""
[[identity.subjects]]
issuer = "{USERS.url}"
audience = "{AUDIENCE}"
jwks = "users.json"
[[identity.workloads]]
issuer = "{RUNNERS.url}"
audience = "{AUDIENCE}"
jwks = "runners.json"
under = "spiffe://acme.org/ci"
id = "spiffe://acme.org/ci/{{sub}}"
where = {{owner = "acme"}}
"""
        text = f"""
[gateway]
issuer = "{GATEWAY}"
listen = "127.0.0.1:0"
listen_bearer = "127.0.0.1:0"
policy = "."
[identity]
source = "workload_api"
[ledger]
insecure_memory = true
[inputs]
discard = true
{said if issuers else ""}"""
        return parse_config(text.encode(), self.folder / "gateway.toml")

    def proven(self):
        return proving(self.config(), self.source, self.clock)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_each_is_believed_by_their_own_proof(scene: Scene) -> None:
    leaf, *_ = scene.authority.issue("agent/support").chain_der
    pem = x509.load_der_x509_certificate(leaf).public_bytes(Encoding.PEM)
    async with scene.proven() as provers:
        now = scene.clock.now()
        by_certificate = provers.peers.verify({"x509_pem_cert": [pem]})
        by_svid = provers.bearers.verify(scene.jwt.issue("agent/support", GATEWAY, now))
        by_token = provers.bearers.verify(RUNNERS.token(now, "r-1", **OWNER))
        assert [(str(peer.spiffe_id), peer.method) for peer in (by_certificate, by_svid, by_token)] == [
            ("spiffe://acme.org/agent/support", "x509"),
            ("spiffe://acme.org/agent/support", "jwt"),
            ("spiffe://acme.org/ci/r-1", "oidc"),
        ]
        assert provers.subjects is not None
        user = provers.subjects.prove(USERS.token(now))
        assert isinstance(user, Subject)
        assert provers.subjects.still_stands(user)
        logout = provers.logouts.verify(USERS.signer.sign(logout_claims(USERS, now), typ="logout+jwt"))
        assert logout.ends(user)


async def test_tk_17_an_issuer_of_the_one_kind_proves_nobody_of_the_other(scene: Scene) -> None:
    async with scene.proven() as provers:
        now = scene.clock.now()
        assert provers.subjects is not None
        assert isinstance(provers.subjects.prove(RUNNERS.token(now, **OWNER)), Refused)
        for token in (USERS.token(now, "r-1", **OWNER), scene.jwt.issue("agent/support", "another", now)):
            with pytest.raises(InvalidInputError):
                provers.bearers.verify(token)
        with pytest.raises(InvalidInputError):
            provers.logouts.verify(RUNNERS.signer.sign(logout_claims(RUNNERS, now), typ="logout+jwt"))


async def test_where_no_issuer_is_configured_nobody_s_token_is_taken(scene: Scene) -> None:
    async with proving(scene.config(issuers=False), scene.source, scene.clock) as provers:
        assert provers.subjects is None
        with pytest.raises(InvalidInputError, match="no kind that this gateway takes"):
            provers.bearers.verify(RUNNERS.token(scene.clock.now(), "r-1", **OWNER))


@pytest.mark.parametrize("name", ["users.json", "runners.json"])
async def test_a_file_of_keys_that_cannot_be_used_stops_the_start(scene: Scene, name: str) -> None:
    (scene.folder / name).write_text("{}")
    with pytest.raises(ConfigError, match=name):
        async with scene.proven():
            raise AssertionError("it started")


async def test_bundles_are_those_of_now_and_keys_are_fetched_until_it_is_left(scene: Scene) -> None:
    following = Issuer(RUNNERS.url)
    following.signer = ForeignSigner.of("ES256", "two")
    following.publish()
    async with scene.proven() as provers:
        svid = scene.jwt.issue("agent/support", GATEWAY, scene.clock.now(), lives=4 * REFRESH)
        provers.bearers.verify(svid)
        scene.source.put(None)
        with pytest.raises(InvalidInputError, match="no bundles"):
            provers.bearers.verify(svid)
        (scene.folder / "runners.json").write_bytes(following.jwks)
        scene.clock.advance(REFRESH)
        await provers.workloads.settled()
        provers.bearers.verify(following.token(scene.clock.now(), "r-1", **OWNER))
    (scene.folder / "runners.json").write_bytes(RUNNERS.jwks)
    scene.clock.advance(REFRESH + timedelta(seconds=1))
    await provers.workloads.settled()
    assert provers.workloads.held()[RUNNERS.url].by_kid.keys() == {"two"}
