"""The logout endpoint over real HTTP: one form with one token, within bounds."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest

from stepgrant_gateway.core.settings import Address
from stepgrant_gateway.web.listener import MAX_BODY, Listener
from stepgrant_gateway.web.logout import PATH, logout_page

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Taken:
    """What came through, and what is answered to it."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.late = False

    def log_out(self, token: str) -> str:
        self.tokens.append(token)
        if self.late:
            raise TimeoutError
        return "" if token.startswith("good") else "not taken"


@pytest.fixture
def taken() -> Taken:
    return Taken()


@pytest.fixture
def listener(taken: Taken) -> Iterator[Listener]:
    one = Listener(Address("127.0.0.1", 0), {}, posts={PATH: logout_page(taken.log_out)}, name="logout")
    yield one
    one.close()


def posted(listener: Listener, body: bytes, path: str = PATH, **headers: str) -> tuple[int, bytes, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=10)
    connection.request(
        "POST", path, body, {**FORM, **{name.replace("_", "-"): value for name, value in headers.items()}}
    )
    answer = connection.getresponse()
    found = answer.status, answer.read(), answer.getheader("Cache-Control")
    connection.close()
    return found


def test_a_good_token_is_answered_once_it_has_taken_effect(listener: Listener, taken: Taken) -> None:
    assert posted(listener, b"logout_token=good.a.b") == (200, b"", "no-store")
    assert taken.tokens == ["good.a.b"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"logout_token=bad", {}, 400),
        (b"", {}, 400),
        (b"logout_token=", {}, 400),
        (b"token=good", {}, 400),
        (b"logout_token=good&logout_token=good", {}, 400),
        (b"logout_token=\xff", {}, 400),
        (b"&".join(b"a%d=1" % n for n in range(40)), {}, 400),
        (b'{"logout_token": "good"}', {"Content_Type": "application/json"}, 415),
        (b"x" * (MAX_BODY + 1), {}, 413),
        (b"logout_token=good", {"Content_Length": "-1"}, 413),
    ],
)
def test_what_is_no_form_with_one_token_is_refused(
    listener: Listener, taken: Taken, body: bytes, headers: dict[str, str], status: int
) -> None:
    found, answer, cached = posted(listener, body, **headers)
    assert (found, cached) == (status, "no-store")
    assert b"good" not in answer
    assert taken.tokens in ([], ["bad"])


def test_nothing_else_is_there_and_a_busy_gateway_says_so(listener: Listener, taken: Taken) -> None:
    assert posted(listener, b"logout_token=good", path="/logout")[0] == 404
    taken.late = True
    assert posted(listener, b"logout_token=good")[0] == 503
