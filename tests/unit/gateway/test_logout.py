"""Where issuers log users out: from a form over HTTP to the tasks that end, between threads and the event loop."""

from __future__ import annotations

import asyncio
import http.client
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stepgrant.subject import SubjectId
from stepgrant_gateway import logout
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.core.settings import Address
from stepgrant_gateway.identity.discovery import OidcIssuer
from stepgrant_gateway.identity.issuers import Issuers
from stepgrant_gateway.identity.logout import LogoutTokens
from stepgrant_gateway.logout import logging_out
from stepgrant_gateway.web.settings import LogoutSettings
from tests.kit.heart import Heart, heart
from tests.kit.oidc import AUDIENCE, Issuer, logout_claims
from tests.kit.subjects import subject_policy

LOOPBACK = LogoutSettings(address=Address("127.0.0.1", 0))


class Scene:
    """An application with a task of a user, whose issuer's keys lie in a file."""

    def __init__(self, built: Heart, folder: Path) -> None:
        self.heart, self.issuer = built, Issuer()
        (folder / "jwks.json").write_bytes(self.issuer.jwks)
        self.issuers = Issuers([OidcIssuer(self.issuer.url, AUDIENCE, jwks=folder / "jwks.json")], built.clock)
        self.tokens = LogoutTokens(self.issuers, built.clock.now)

    def token(self, jti: str = "j-1") -> str:
        claims = logout_claims(self.issuer, self.heart.clock.now(), jti=jti)
        return self.issuer.signer.sign(claims, typ="logout+jwt")


def posted(port: int, token: str) -> tuple[int, bytes]:
    """What the issuer hears; to be called on a thread of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/backchannel-logout", f"logout_token={token}", form)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with heart(directory=subject_policy(tmp_path / "policy")) as built:
        made = Scene(built, tmp_path)
        await made.issuers.begin()
        at = int(built.clock.now().timestamp())
        await built.open(subject_token=built.token(SubjectId(made.issuer.url, "u-17"), iat=at))
        yield made


async def test_a_logout_token_ends_the_user_s_tasks_before_it_is_answered(scene: Scene) -> None:
    with logging_out(LOOPBACK, scene.tokens, scene.heart.logging_out) as port:
        assert port is not None
        assert await asyncio.to_thread(posted, port, scene.token()) == (200, b"")
        assert scene.heart.state.tasks == {}


async def test_what_is_no_logout_token_is_answered_with_what_is_wrong_and_ends_nothing(scene: Scene) -> None:
    with logging_out(LOOPBACK, scene.tokens, scene.heart.logging_out) as port:
        assert port is not None
        status, said = await asyncio.to_thread(posted, port, scene.issuer.token(scene.heart.clock.now()))
        assert status == 400
        assert b"the logout token is not taken" in said
        assert len(scene.heart.state.tasks) == 1


async def test_an_issuer_hears_soon_that_the_gateway_does_not_turn(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logout, "ANSWERS_WITHIN", 0.05)
    heard: list[tuple[int, bytes]] = []
    with logging_out(LOOPBACK, scene.tokens, scene.heart.logging_out) as port:
        assert port is not None
        issuer = threading.Thread(target=lambda: heard.append(posted(port, scene.token())))
        issuer.start()
        issuer.join(timeout=20)  # On the event loop, which therefore answers nobody.
        assert heard == [(503, b"")]


async def test_without_an_address_nobody_listens(scene: Scene) -> None:
    with logging_out(LogoutSettings(address=None), scene.tokens, scene.heart.logging_out) as port:
        assert port is None


async def test_afterwards_nobody_listens_and_an_address_that_is_taken_stops_the_start(scene: Scene) -> None:
    with logging_out(LOOPBACK, scene.tokens, scene.heart.logging_out) as port:
        assert port is not None
        taken = LogoutSettings(address=Address("127.0.0.1", port))
        with pytest.raises(ConfigError), logging_out(taken, scene.tokens, scene.heart.logging_out):
            raise AssertionError("it listens twice")
    with pytest.raises(ConnectionError):
        await asyncio.to_thread(posted, port, scene.token())
