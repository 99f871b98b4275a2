"""Bearer tokens: each judged by one kind, verified again with all that the decision hung on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from stepgrant.errors import IdentityUnavailableError, InvalidInputError, InvalidSvidError
from stepgrant.spiffe.bundles import BundleSet
from stepgrant.spiffe.ids import SpiffeId
from stepgrant_gateway.core.principal import Peer
from stepgrant_gateway.identity import bearers as module
from stepgrant_gateway.identity.bearers import MAX_BEARER_BYTES, Bearers, JwtSvidBearers
from tests.kit.clock import START, ManualClock
from tests.kit.foreign import ForeignSigner
from tests.kit.jwt import JwtAuthority

GATEWAY = "spiffe://acme.org/stepgrant"
OURS, NEXT, THEIRS = JwtAuthority(), JwtAuthority(kid="two"), JwtAuthority("partner.org")


class Scene:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.bundles = BundleSet(jwt_bundles=(OURS.bundle(),))
        self.kind = JwtSvidBearers(GATEWAY, lambda: self.bundles, self.clock.now)
        self.bearers = Bearers([self.kind])

    def token(self, **claims: Any) -> str:
        return OURS.issue("agent/support", [GATEWAY], self.clock.now(), **claims)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_jwt_svid_proves_its_workload_until_it_expires(scene: Scene) -> None:
    token = scene.token()
    peer = scene.bearers.verify(token)
    assert str(peer.spiffe_id) == "spiffe://acme.org/agent/support"
    assert (peer.method, peer.not_after) == ("jwt", START + timedelta(minutes=5))
    assert peer.credential_sha256 == hashlib.sha256(token.encode()).digest()


def test_a_success_is_remembered_and_judged_anew_when_any_input_of_it_changes(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(*args: Any) -> Any:
        calls.append(args)
        return verify(*args)

    verify = module.verify_jwt_svid
    monkeypatch.setattr(module, "verify_jwt_svid", counted)
    token, other = scene.token(), scene.token(jti="other")
    for one in (token, token, other, token):
        scene.bearers.verify(one)
    assert len(calls) == 2
    scene.bundles = BundleSet(jwt_bundles=(OURS.bundle(NEXT),))
    scene.bearers.verify(token)
    assert len(calls) == 3


def test_a_remembered_token_expires_to_the_second(scene: Scene) -> None:
    token = scene.token()
    scene.bearers.verify(token)
    scene.clock.advance(timedelta(minutes=5) - timedelta(microseconds=1))
    scene.bearers.verify(token)
    scene.clock.advance(timedelta(microseconds=1))
    with pytest.raises(InvalidSvidError, match="expired"):
        scene.bearers.verify(token)


def test_a_remembered_token_is_not_good_before_its_time_when_the_clock_goes_back(scene: Scene) -> None:
    token = scene.token(nbf=int(START.timestamp()))
    scene.bearers.verify(token)
    scene.clock.set_wall(START - timedelta(seconds=2))
    with pytest.raises(InvalidSvidError, match="not valid before"):
        scene.bearers.verify(token)


def test_an_authority_that_leaves_takes_its_remembered_tokens_along(scene: Scene) -> None:
    token = scene.token()
    scene.bearers.verify(token)
    scene.bundles = BundleSet(jwt_bundles=(NEXT.bundle(),))
    with pytest.raises(InvalidSvidError, match="no JWT authority"):
        scene.bearers.verify(token)
    scene.bundles = BundleSet()
    with pytest.raises(InvalidSvidError, match="no JWT authorities"):
        scene.bearers.verify(token)


def test_without_bundles_nobody_is_proven(scene: Scene) -> None:
    def gone() -> BundleSet:
        raise IdentityUnavailableError("gone")

    with pytest.raises(InvalidSvidError, match="no bundles"):
        JwtSvidBearers(GATEWAY, gone, scene.clock.now).verify(scene.token())


class OtherKind:
    """Takes whatever a certain issuer says."""

    def takes(self, claims: Mapping[str, Any]) -> bool:
        return claims.get("iss") == "https://ci.example"

    def verify(self, token: str) -> Peer:
        return Peer(SpiffeId("acme.org", "/ci"), "other", START, b"t" * 32)


def test_one_kind_judges_a_token_and_no_other_gets_it_when_that_refuses(scene: Scene) -> None:
    both = Bearers([scene.kind, OtherKind()])
    stranger = ForeignSigner.of("ES256")
    assert both.verify(stranger.sign({"iss": "https://ci.example", "sub": "repo:acme"})).method == "other"
    for sub in ("spiffe://acme.org/agent/support", "spiffe:"):
        with pytest.raises(InvalidSvidError):
            both.verify(stranger.sign({"iss": "https://ci.example", "sub": sub}))


@pytest.mark.parametrize(
    "token",
    [
        ForeignSigner.of("ES256").sign({"sub": "someone", "iss": "https://unknown.example"}),
        ForeignSigner.of("ES256").sign(b"[]"),
        ForeignSigner.of("ES256").sign(b'{"sub":"a","sub":"spiffe://acme.org/a"}'),
        "a.b.c",
        "",
        "a" * (MAX_BEARER_BYTES + 1),
    ],
    ids=["of no kind", "no object", "twice", "no base64", "empty", "too large"],
)
def test_a_token_of_no_kind_proves_nobody(scene: Scene, token: str) -> None:
    with pytest.raises(InvalidInputError):
        scene.bearers.verify(token)


def test_id_12_another_trust_domains_authority_and_audience_prove_nobody(scene: Scene) -> None:
    scene.bundles = BundleSet(jwt_bundles=(OURS.bundle(), THEIRS.bundle()))
    forged = THEIRS.issue("x", [GATEWAY], START, sub="spiffe://acme.org/agent/support")
    for token in (forged, OURS.issue("agent/support", ["spiffe://acme.org/stepgrant/other"], START)):
        with pytest.raises(InvalidSvidError):
            scene.bearers.verify(token)
    assert scene.bearers.verify(THEIRS.issue("x", GATEWAY, START)).spiffe_id == SpiffeId("partner.org", "/x")
