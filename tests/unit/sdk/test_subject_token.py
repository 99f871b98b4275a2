"""The user's token is brought when the gateway is to see one: at the opening, as the task moves, and before it ends."""

from __future__ import annotations

import asyncio
import functools
import json
from datetime import UTC, datetime, timedelta

import pytest

from stepgrant import subject_token
from stepgrant.client import Client
from stepgrant.compact import base64url
from stepgrant.errors import IdentityUnavailableError, MisuseError
from stepgrant.pauses import TRY_TO_MOVE
from stepgrant.subject_token import brought, end_of
from tests.kit.clock import ManualClock
from tests.kit.loop import settled

LIFE = timedelta(minutes=10)


def token(**claims):
    return ".".join(base64url(json.dumps(part).encode()) for part in ({"alg": "none"}, claims, {}))


class Login:
    """Brings tokens that last for `LIFE` by the test's clock, or fails."""

    def __init__(self, clock):
        self.clock, self.asked, self.fails = clock, 0, False

    async def __call__(self):
        self.asked += 1
        if self.fails:
            raise ConnectionError("the issuer at secret.example")
        return token(exp=int((self.clock.now() + LIFE).timestamp()), jti=self.asked)


@pytest.fixture
async def clock():
    return ManualClock(datetime.now(UTC))


@pytest.fixture
async def client(gateway, clock):
    async with gateway.client(clock=clock) as made:
        yield made


async def test_it_is_brought_at_the_opening_and_again_when_half_of_its_life_is_over(gateway, client, clock):
    login = Login(clock)
    async with client.task("Refund", subject_token=login) as task:
        assert (gateway.opened[-1].subject_token, login.asked) == (token_of(login, clock), 1)
        for number in (2, 3):
            session = task._lease._hold.session
            clock.advance(LIFE / 2)
            await settled(lambda before=session: task._lease._hold.session is not before)
            assert (login.asked, len(gateway.resumed)) == (number, number - 1)
        assert task.open


def token_of(login, clock):
    return token(exp=int((clock.now() + LIFE).timestamp()), jti=login.asked)


async def test_it_is_brought_again_for_the_next_svid(gateway, clock):
    login, identity = Login(clock), gateway.identity()
    async with Client(gateway.address, gateway.gateway_id, identity) as client:
        async with client.task("Refund", subject_token=login):
            identity.become(gateway.authority.snapshot("agent/test"))
            await gateway.until(lambda: gateway.resumed)
            assert login.asked == 2


async def test_a_task_goes_on_under_the_token_that_it_has_while_no_other_can_be_had(gateway, client, clock):
    login = Login(clock)
    async with client.task("Refund", subject_token=login) as task:
        login.fails = True
        clock.advance(LIFE / 2)
        await settled(lambda: task._lease._pauses._over is not None)
        async with task.step("orders.get"):
            login.fails = False
            clock.advance(TRY_TO_MOVE)
            await gateway.until(lambda: gateway.resumed)
        assert login.asked == 3


async def test_a_token_that_is_given_once_is_shown_again_and_moves_nothing(gateway, client, clock):
    given = token(exp=int((clock.now() + LIFE).timestamp()))
    async with client.task("Refund", subject_token=given) as task:
        assert task._lease._hold.session.subject_ends is None


async def test_no_task_is_opened_without_the_token(gateway, client, clock):
    login = Login(clock)
    login.fails = True
    with pytest.raises(IdentityUnavailableError, match="ended with ConnectionError") as refused:
        async with client.task("Refund", subject_token=login):
            pass
    assert "secret" not in str(refused.value)
    assert gateway.opened == []


async def coroutine():
    return "a.b.c"


class AsyncCallable:
    async def __call__(self):
        return "a.b.c"


@pytest.mark.parametrize("bring", [coroutine, functools.partial(coroutine), AsyncCallable(), lambda: "a.b.c"])
async def test_functions_of_each_kind_bring_it(bring):
    assert await brought(bring) == "a.b.c"


@pytest.mark.parametrize("answer", ["", None, b"a.b.c", "x" * 8193])
async def test_what_is_no_token_is_a_mistake_of_the_program(answer):
    with pytest.raises(MisuseError, match="give the OIDC token itself"):
        await brought(lambda: answer)


async def test_it_is_not_waited_for_forever(monkeypatch):
    monkeypatch.setattr(subject_token, "BROUGHT_WITHIN", timedelta(milliseconds=1))
    with pytest.raises(IdentityUnavailableError, match="TimeoutError"):
        await brought(asyncio.Event().wait)


@pytest.mark.parametrize(
    "text", ["a.b.c", "", token(), token(exp="1"), token(exp=True), token(exp=0), token(exp=10**15), token(exp=None)]
)
def test_a_token_that_does_not_say_when_it_ends_says_nothing(text):
    assert end_of(text) is None


def test_a_token_says_when_it_ends():
    assert end_of(token(exp=1_800_000_000)) == datetime(2027, 1, 15, 8, 0, tzinfo=UTC)
