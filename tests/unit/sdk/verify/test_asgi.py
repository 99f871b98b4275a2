"""The ASGI middleware: no application runs but for a request that a live grant covers."""

import json
from typing import Any
from urllib.parse import unquote

import pytest

from stepgrant.calls import HttpCalls, HttpRoute
from stepgrant.dpop import make_proof
from stepgrant.errors import MisuseError
from stepgrant.grant import Binding
from stepgrant.verify import current_call
from stepgrant.verify.asgi import METHOD_OVERRIDES, SCOPE_KEY, GrantMiddleware
from stepgrant.verify.peers import TlsPeers
from stepgrant.verify.resource import Verifier
from tests.kit.ca import FixedSource
from tests.kit.enforcement import ORIGIN, GatewayDouble, ResourceDouble, UpstreamDouble

CALLS = HttpCalls([HttpRoute("orders.refund", "POST", "/orders/{order_id}/refund")])
PATH, BODY = "/orders/ord_1/refund", b'{"amount": 40}'
JSON = (b"content-type", b"application/json")


class App:
    """An application that notes what it is given."""

    def __init__(self) -> None:
        self.ran: list[Any] = []
        self.status = 200
        self.error: Exception | None = None

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            self.ran.append(scope["type"])
            return
        message = await receive()
        call = scope.get(SCOPE_KEY)
        self.ran.append((message["body"], dict(call.arguments) if call else None))
        if call is not None:
            assert current_call() is call
        if self.error is not None:
            raise self.error
        self.ran.append((await receive())["type"])
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})


class Web:
    def __init__(self, **options) -> None:
        self.gateway = GatewayDouble(binding=Binding.KEY)
        self.resource = ResourceDouble(self.gateway)
        self.upstream = UpstreamDouble(self.gateway)
        clock = self.gateway.clock
        verifier = Verifier(
            self.resource.expected, self.resource.feed, self.upstream, clock, peers=TlsPeers(FixedSource(None), clock)
        )
        self.app = App()
        options = {"origin": ORIGIN, **options}
        self.guarded = GrantMiddleware(self.app, verifier=verifier, calls=CALLS, **options)
        self.token = self.gateway.mint()

    def proof(self, token: str | None = None, *, htm="POST", htu=ORIGIN + PATH, jti="1") -> tuple[bytes, bytes]:
        now = self.gateway.clock.now()
        text = make_proof(self.gateway.instance_key, htm=htm, htu=htu, grant=token or self.token, now=now, jti=jti)
        return b"dpop", text.encode()

    def headers(self, **how) -> list[tuple[bytes, bytes]]:
        return [(b"Stepgrant-Grant", self.token.encode()), self.proof(**how), JSON]

    async def request(self, headers, *, parts=(BODY,), **scope):
        messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        messages[-1]["more_body"] = False
        messages.append({"type": "http.disconnect"})
        sent: list[dict[str, Any]] = []

        async def receive():
            return messages.pop(0)

        async def send(message) -> None:
            sent.append(message)

        whole = {
            "type": "http",
            "method": "POST",
            "path": unquote((scope.get("raw_path") or PATH.encode()).partition(b"?")[0]),
            "raw_path": PATH.encode(),
            "query_string": b"",
            "headers": headers,
        }
        await self.guarded({k: v for k, v in {**whole, **scope}.items() if v is not None}, receive, send)
        return sent

    async def refused(self, headers, **how) -> tuple[int, str]:
        start, body = await self.request(headers, **how)
        assert self.app.ran == []
        content = json.loads(body["body"])
        assert set(content) == {"error", "reason", "next"}
        challenged = b"www-authenticate" in dict(start["headers"])
        assert challenged == (start["status"] == 401)
        return start["status"], content["error"]


@pytest.fixture
def web() -> Web:
    return Web()


async def test_a_covered_request_runs_on_the_bytes_that_were_verified_inv_10(web):
    """INV-10: the body is read once, verified, and handed on as it was."""
    start, _ = await web.request(web.headers(), parts=(BODY[:5], BODY[5:]))
    assert start["status"] == 200
    (body, arguments), after = web.app.ran
    assert (body, after) == (BODY, "http.disconnect")
    assert set(arguments) == {"amount", "order_id"}


async def test_a_request_without_grant_or_proof_is_refused(web):
    assert await web.refused([JSON, web.proof()]) == (401, "grant_missing")
    assert await web.refused([JSON, (b"stepgrant-grant", web.token.encode())]) == (401, "holder")


async def test_a_proof_is_checked_against_the_configured_origin_and_not_the_host_header(web):
    evil = [*web.headers(htu=f"https://evil.org{PATH}"), (b"host", b"evil.org")]
    assert await web.refused(evil) == (401, "holder")
    assert await web.refused(web.headers(htm="GET")) == (401, "holder")
    start, _ = await web.request([*web.headers(), (b"host", b"evil.org")])
    assert start["status"] == 200


async def test_a_proof_is_good_once(web):
    await web.request(web.headers())
    web.app.ran.clear()
    assert await web.refused(web.headers()) == (401, "holder")


async def test_other_arguments_and_other_routes_are_refused(web):
    assert await web.refused(web.headers(), parts=(b'{"amount": 41}',)) == (403, "arguments")
    for change in ({"method": "PUT"}, {"raw_path": b"/orders/ord_1"}, {"raw_path": b"/orders//refund"}):
        status, _ = await web.refused(web.headers(), **change)
        assert status in {400, 403}


async def test_a_header_that_comes_twice_is_refused(web):
    for name in (b"stepgrant-grant", b"DPoP", b"content-type"):
        assert await web.refused([*web.headers(), (name, b"x")]) == (400, "call_malformed")


@pytest.mark.parametrize(
    "how",
    [
        {"raw_path": None},
        {"raw_path": "/ä".encode()},
        {"query_string": b"x=1"},
        {"query_string": "ä".encode()},
        {"parts": (b"x" * 65537,)},
        {"parts": (b"x" * 40000, b"x" * 40000)},
        {"parts": (b"{",)},
    ],
    ids=["no raw path", "path", "query", "query encoding", "large", "large in parts", "no JSON"],
)
async def test_a_request_that_cannot_be_read_in_one_way_is_refused(web, how):
    assert await web.refused(web.headers(), **how) == (400, "call_malformed")


@pytest.mark.parametrize(
    "header", [(b"content-encoding", b"gzip"), (b"content-length", b"65537"), (b"content-length", b"1e3")], ids=str
)
async def test_encoded_bodies_and_declared_sizes_beyond_the_bound_are_refused_unread(web, header):
    assert await web.refused([*web.headers(), header]) == (400, "call_malformed")


async def test_a_body_of_another_length_than_declared_is_refused_inv_10(web):
    """INV-10: two lengths, two readings: what stands before the server may have read another request."""
    length = str(len(BODY)).encode()
    start, _ = await web.request([*web.headers(), (b"content-length", length)])
    assert start["status"] == 200
    web.app.ran.clear()
    assert await web.refused([*web.headers(jti="2"), (b"content-length", b"2")]) == (400, "call_malformed")


async def test_a_client_that_goes_away_is_not_served(web):
    sent: list[Any] = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message) -> None:
        sent.append(message["type"])

    scope = {"type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(), "headers": web.headers()}
    await web.guarded(scope, receive, send)
    assert web.app.ran == []


async def test_a_stale_feed_is_unavailable_inv_11(web):
    """INV-11: feed stale."""
    web.resource.feed.lose("cut")
    assert await web.refused(web.headers()) == (503, "feed_stale")


async def test_open_paths_are_open_to_get_only():
    web = Web(open_paths=["/healthz"])
    await web.request([], method="GET", raw_path=b"/healthz?x=1")
    assert web.app.ran[0] == (BODY, None)
    web.app.ran.clear()
    assert (await web.refused([], raw_path=b"/healthz"))[1] == "grant_missing"


async def test_a_socket_is_closed_and_lifespan_passes(web):
    sent: list[Any] = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message) -> None:
        sent.append(message)

    await web.guarded({"type": "websocket"}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]
    await web.guarded({"type": "lifespan"}, receive, send)
    assert web.app.ran == ["lifespan"]


async def test_outcomes_are_attested_by_status_when_asked_for():
    web = Web(attest=True)
    await web.request(web.headers())
    web.app.status = 404
    await web.request(web.headers(jti="2"))
    web.app.error = ValueError("broken")
    with pytest.raises(ValueError, match="broken"):
        await web.request(web.headers(jti="3"))
    assert [completed for _, completed in web.upstream.attested] == [True, False, False]


@pytest.mark.parametrize("origin", ["", "orders.acme.org", "https://a/b", "https://a?b", "ftp://a", "https://a:123456"])
def test_an_origin_that_is_none_is_misuse(web, origin):
    with pytest.raises(MisuseError):
        GrantMiddleware(web.app, verifier=web.guarded._verifier, calls=CALLS, origin=origin)


async def test_a_path_that_was_rewritten_before_the_guard_is_refused_inv_10():
    """INV-10: an application routes by `path`, the guard verifies `raw_path`; a rewriting middleware must not part them."""
    web = Web(open_paths=["/healthz"])
    assert await web.refused(web.headers(), path="/orders/ord_2/refund") == (400, "call_malformed")
    assert await web.refused([], method="GET", raw_path=b"/healthz", path=PATH) == (400, "call_malformed")
    start, _ = await web.request(web.headers(), root_path="/orders", path="/ord_1/refund")
    assert start["status"] == 200


@pytest.mark.parametrize("name", METHOD_OVERRIDES)
async def test_a_method_beside_the_requests_own_is_refused_inv_10(web, name):
    """INV-10: frameworks that heed these headers would run another handler than the one that was verified."""
    assert await web.refused([*web.headers(), (name.title().encode(), b"DELETE")]) == (400, "call_malformed")


async def test_a_refusal_names_its_code_in_a_header_too(web):
    start, _ = await web.request([])
    assert dict(start["headers"])[b"stepgrant-refusal"] == b"grant_missing"


@pytest.mark.parametrize("origin", [ORIGIN.upper().replace("HTTPS", "https"), f"{ORIGIN}:443"])
async def test_an_origin_is_configured_in_any_of_its_forms(origin):
    web = Web(origin=origin)
    start, _ = await web.request(web.headers())
    assert start["status"] == 200
