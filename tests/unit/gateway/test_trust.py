"""What a change of whom we trust ends at once: streams, and tasks of users."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from stepgrant.spiffe.bundles import BundleSet
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.source import IdentitySnapshot, take_snapshot
from stepgrant_gateway.app.trusted import EVERY
from stepgrant_gateway.core.boundary import TaskClosed
from stepgrant_gateway.core.events import EventType
from stepgrant_gateway.identity.bearers import Bearers, JwtSvidBearers
from stepgrant_gateway.identity.discovery import OidcIssuer
from stepgrant_gateway.identity.federation import FederatedIdentity
from stepgrant_gateway.identity.issuers import Issuers
from stepgrant_gateway.identity.mapping import Mapped
from stepgrant_gateway.identity.oidc_bearers import OidcBearers
from stepgrant_gateway.identity.oidc_keys import REFRESH
from stepgrant_gateway.identity.oidc_settings import WorkloadIssuer
from stepgrant_gateway.rpc.caller import Caller
from stepgrant_gateway.rpc.live import LiveCalls
from stepgrant_gateway.trust import following, on_record
from tests.kit.ca import FixedSource, TestAuthority
from tests.kit.clock import START
from tests.kit.foreign import ForeignSigner
from tests.kit.heart import ISSUER, Heart, heart
from tests.kit.jwt import JwtAuthority
from tests.kit.oidc import AUDIENCE, Issuer
from tests.kit.subjects import KEY, subject_policy

MAPPED = Mapped(parse_spiffe_id("spiffe://acme.org/ci"), "spiffe://acme.org/ci/{sub}", {"owner": "acme"})


class Scene:
    """An application, streams that tokens opened, and those whom it all rests on."""

    def __init__(self, built: Heart, folder: Path) -> None:
        self.heart, self.folder = built, folder
        self.authority, self.jwt = TestAuthority(), JwtAuthority()
        self.source = FixedSource(self.snapshot())
        self.users, self.user_issuer = self.issuers("users")
        self.workloads, self.issuer = self.issuers("workloads")
        settings = [WorkloadIssuer(OidcIssuer(self.issuer.url, AUDIENCE), MAPPED)]
        clock = self.heart.clock
        self.bearers = Bearers(
            [
                JwtSvidBearers(ISSUER, lambda: self.source.current().bundles, clock.now),
                OidcBearers(settings, self.workloads, clock),
            ]
        )
        self.live = LiveCalls(clock, lambda token: self.bearers.verify(str(token)))
        self.lost: list[str] = []
        self.followed = following(
            self.source, self.users, self.workloads, live=self.live, disowning=self.heart.disowning,
            keys=self.heart.keys, feed=self.heart.feed,
        )  # fmt: skip

    def issuers(self, name: str) -> tuple[Issuers, Issuer]:
        issuer, path = Issuer(f"https://{name}.acme.test"), self.folder / f"{name}.json"
        path.write_bytes(issuer.jwks)
        return Issuers([OidcIssuer(issuer.url, AUDIENCE, jwks=path)], self.heart.clock), issuer

    def snapshot(self) -> IdentitySnapshot:
        """The identity of now, with these authorities of both kinds."""
        svid, bundles = self.authority.issue("gateway"), BundleSet((self.authority.bundle(),), (self.jwt.bundle(),))
        return take_snapshot(svid.chain_der, svid.key_pem, bundles, START)

    async def replace_key(self, name: str, issuer: Issuer) -> None:
        """The issuer has another key, and that has come here."""
        issuer.signer = ForeignSigner.of("ES256", "two")
        issuer.publish()
        (self.folder / f"{name}.json").write_bytes(issuer.jwks)
        self.heart.clock.advance(REFRESH)
        await self.users.settled()
        await self.workloads.settled()

    async def events(self) -> list[dict[str, Any]]:
        """What the ledger says of keys that are trusted."""
        kinds = {EventType.BUNDLE_CHANGED, EventType.ISSUER_KEYS_CHANGED}
        return [dict(event.data) for event in await self.heart.recorded() if event.type in kinds]

    def enter(self, name: str, token: str) -> None:
        """A stream that was opened with this token."""
        self.live.enter(Caller(self.bearers.verify(token), token), lambda code, reason: self.lost.append(name))


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with heart(directory=subject_policy(tmp_path / "policy")) as built:
        made = Scene(built, tmp_path)
        await made.users.begin()
        await made.workloads.begin()
        now = built.clock.now()
        made.enter("svid", made.jwt.issue("agent/support", ISSUER, now, lives=3 * REFRESH))
        made.enter("runner", made.issuer.token(now, "r", lives=3 * REFRESH, owner="acme"))
        yield made


async def test_inv_07_another_bundle_ends_the_streams_that_it_does_not_vouch_for(scene: Scene) -> None:
    with scene.followed:
        scene.source.put(scene.snapshot())
        await asyncio.sleep(0)
        assert scene.lost == []
        scene.jwt = JwtAuthority(kid="two")
        scene.source.put(scene.snapshot())
        await asyncio.sleep(0)
        assert scene.lost == ["svid"]


async def test_inv_07_another_key_of_an_issuer_of_workloads_ends_the_streams_that_the_one_before_had_opened(
    scene: Scene,
) -> None:
    with scene.followed:
        await scene.replace_key("users", scene.user_issuer)
        assert scene.lost == []
        await scene.replace_key("workloads", scene.issuer)
        assert scene.lost == ["runner"]


async def test_inv_07_another_key_of_an_issuer_of_users_ends_the_tasks_of_whom_the_one_before_had_proven(
    scene: Scene,
) -> None:
    built = scene.heart
    with scene.followed:
        for _ in range(2):
            await built.open(subject_token=built.token(lives=3 * REFRESH))
        built.tokens.keys -= {KEY}
        assert len(built.state.tasks) == 2
        await scene.replace_key("users", scene.user_issuer)
    assert built.state.tasks == {}
    assert [item.code for item in built.pushed if isinstance(item, TaskClosed)] == ["subject_lost"] * 2


async def test_afterwards_nobody_hears_of_changes(scene: Scene) -> None:
    with scene.followed:
        pass
    scene.jwt = JwtAuthority(kid="two")
    scene.source.put(scene.snapshot())
    await scene.replace_key("workloads", scene.issuer)
    assert scene.lost == []


async def test_what_is_trusted_is_on_record_from_the_start_and_as_it_changes(scene: Scene) -> None:
    built = scene.heart
    identity = FederatedIdentity(scene.source, (), built.clock, built.entropy)
    before = f"x509-svid:{sha256(scene.authority.bundle().authorities[0]).hexdigest()}"
    with on_record(identity, scene.users, scene.workloads, built.clock, built.journal):
        users, workloads, bundle = await scene.events()
        assert (bundle["trust_domain"], bundle["sequence"], bundle["keys"]) == ("acme.org", None, 2)
        [jwt, x509] = bundle["added"]
        assert (jwt[:9], x509) == ("jwt-svid:", before)
        for event, issuer, of in ((users, scene.user_issuer, "subjects"), (workloads, scene.issuer, "workloads")):
            assert (event["issuer"], event["of"], len(event["added"])) == (issuer.url, of, 1)
        # Another SVID under the same authorities is no change of theirs.
        scene.source.put(scene.snapshot())
        await asyncio.sleep(0)
        assert len(await scene.events()) == 3
        scene.jwt = JwtAuthority(kid="two")
        built.clock.advance(EVERY)
        scene.source.put(scene.snapshot())
        await asyncio.sleep(0)
        [_, _, _, changed] = await scene.events()
        assert (changed["removed"], changed["keys"]) == ([jwt], 2)
        await scene.replace_key("users", scene.user_issuer)
        [*_, keys] = await scene.events()
        assert (keys["issuer"], keys["removed"]) == (scene.user_issuer.url, users["added"])
        # A trust domain whose bundle is gone has no authorities any more.
        scene.authority = TestAuthority("other.test")
        scene.jwt = JwtAuthority("other.test")
        scene.source.put(scene.snapshot())
        await asyncio.sleep(0)
        [*_, gone, other] = await scene.events()
        assert (gone["trust_domain"], gone["keys"]) == ("acme.org", 0)
        assert gone["removed"] == sorted([*changed["added"], x509])
        assert (other["trust_domain"], other["keys"]) == ("other.test", 2)


async def test_where_there_is_no_identity_what_was_trusted_stays_on_record_as_it_was(scene: Scene) -> None:
    built = scene.heart
    identity = FederatedIdentity(scene.source, (), built.clock, built.entropy)
    with on_record(identity, scene.users, scene.workloads, built.clock, built.journal):
        scene.source.put(None)
        await asyncio.sleep(0)
        assert len(await scene.events()) == 3
