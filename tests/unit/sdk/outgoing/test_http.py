"""A grant goes to its own origin with a proof for the very request, and no redirect takes it anywhere."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from stepgrant.calls import HttpCalls, HttpRoute
from stepgrant.dpop import ReplayCache, verify_proof
from stepgrant.errors import Denied, MisuseError, Revoked
from stepgrant.grant import Binding
from stepgrant.guard import task
from stepgrant.outgoing.http import HttpAuth
from stepgrant.testing import GrantRule
from tests.kit.clock import ManualClock
from tests.kit.loop import interrupted

MAIL = "https://mail.acme.org"
CALLS = HttpCalls([HttpRoute("mail.send", "POST", "/outbox/{box}"), HttpRoute("mail.read", "GET", "/inbox")])


class Wire(httpx.AsyncBaseTransport, httpx.BaseTransport):
    """What is really sent, and scripted answers."""

    def __init__(self, *answers):
        self.sent = []
        self._answers = list(answers)

    def handle_request(self, request):
        headers = {name.decode().lower(): value.decode() for name, value in request.headers.raw}
        self.sent.append((str(request.url), headers))
        return self._answers.pop(0) if self._answers else httpx.Response(200, json={})

    async def handle_async_request(self, request):
        return self.handle_request(request)


@pytest.fixture
def gateway(gateway):
    for tool in ("mail.send", "mail.read"):
        gateway.grant(tool, GrantRule(audience=MAIL, binding=Binding.KEY))
    return gateway


def client(wire, calls=None, **options):
    return httpx.AsyncClient(transport=wire, auth=HttpAuth(MAIL, MAIL, calls), **options)


async def test_inside_a_step_requests_carry_its_grant_and_a_proof_for_this_request(gateway):
    wire = Wire()
    async with gateway.client(), task("Refund") as opened, client(wire) as http, opened.step("mail.send") as step:
        await http.post(MAIL + "/outbox/a%20b?x=1", json={})
        grant, key = step.grant, step.holder.instance_key
        ((_, headers),) = wire.sent
        assert headers["stepgrant-grant"] == grant.token
        verify_proof(
            headers["dpop"],
            htm="POST",
            htu=MAIL + "/outbox/a%20b",
            grant=grant.token,
            now=gateway._now(),
            jkt=key.jkt,
            replay=ReplayCache(),
        )


@pytest.mark.parametrize(
    "url", ["https://evil.org/outbox/a", "http://mail.acme.org/outbox/a", "https://mail.acme.org:8443/outbox/a"]
)
async def test_inv_8_another_origin_gets_nothing(gateway, url):
    wire = Wire()
    async with gateway.client(), task("Refund") as opened, client(wire, CALLS) as http, opened.step("mail.send"):
        await http.post(url, json={})
    assert "stepgrant-grant" not in wire.sent[0][1]
    assert "dpop" not in wire.sent[0][1]
    assert len(gateway.declared) == 1


@pytest.mark.parametrize("location", ["https://evil.org/", MAIL + "/elsewhere"])
async def test_inv_8_a_redirect_takes_no_grant_along(gateway, location):
    wire = Wire(httpx.Response(307, headers={"location": location}))
    async with gateway.client(), task("Refund") as opened, opened.step("mail.send"):
        async with client(wire, follow_redirects=True) as http:
            await http.post(MAIL + "/outbox/a", json={})
    (_, first), (url, second) = wire.sent
    assert url == location
    assert "stepgrant-grant" in first
    assert not {"stepgrant-grant", "dpop"} & set(second)


async def test_without_a_step_the_call_is_declared_from_the_request_and_reported(gateway):
    wire = Wire()
    async with gateway.client(), task("Refund"), client(wire, CALLS) as http:
        await http.post(MAIL + "/outbox/a", json={"to": ["jo@x.org"]})
    assert [(one.tool, one.arguments) for one in gateway.declared] == [("mail.send", {"box": "a", "to": ["jo@x.org"]})]
    assert [one.failed for one in gateway.reported] == [False]
    assert "stepgrant-grant" in wire.sent[0][1]


async def test_a_response_that_refuses_and_a_request_that_fails_are_reported_failed(gateway):
    class Broken(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            raise httpx.ConnectError("gone")

    async with gateway.client(), task("Refund"):
        async with client(Wire(httpx.Response(403)), CALLS) as http:
            await http.get(MAIL + "/inbox")
        async with client(Broken(), CALLS) as http:
            with pytest.raises(httpx.ConnectError):
                await http.get(MAIL + "/inbox")
        await gateway.until(lambda: len(gateway.reported) == 2)
    assert [one.failed for one in gateway.reported] == [True, True]
    assert gateway.reported[0].error_class == "HTTP 403"


async def test_inv_12_a_denied_request_is_not_sent(gateway):
    gateway.deny("mail.send")
    wire = Wire()
    async with gateway.client(), task("Refund"), client(wire, CALLS) as http:
        with pytest.raises(Denied):
            await http.post(MAIL + "/outbox/a", json={})
    assert wire.sent == []


async def test_another_tool_than_the_current_steps_is_declared_as_its_child(gateway):
    async with gateway.client(), task("Refund") as opened, client(Wire(), CALLS) as http:
        async with opened.step("mail.read") as step:
            await http.post(MAIL + "/outbox/a", json={})
    assert [one.parent_step_id for one in gateway.declared] == ["", step.id]


async def test_blocking_requests_work_outside_the_loops_thread(gateway):
    wire = Wire()

    def send():
        with httpx.Client(transport=wire, auth=HttpAuth(MAIL, MAIL, CALLS)) as http:
            http.post(MAIL + "/outbox/a", json={})
            http.post("https://evil.org/outbox/a", json={})

    async with gateway.client(), task("Refund"):
        await asyncio.to_thread(send)
    assert ["stepgrant-grant" in headers for _, headers in wire.sent] == [True, False]
    assert [one.failed for one in gateway.reported] == [False]


async def test_a_grant_bound_to_a_certificate_has_no_use_over_http(gateway):
    gateway.grant("mail.send", GrantRule(audience=MAIL, binding=Binding.MTLS))
    wire = Wire()
    async with gateway.client(), task("Refund") as opened, client(wire) as http, opened.step("mail.send"):
        with pytest.raises(MisuseError, match="binding: key"):
            await http.post(MAIL + "/outbox/a", json={})
    assert wire.sent == []


@pytest.mark.parametrize(
    ("origin", "options"),
    [
        ("https://mail.acme.org/path", {}),
        ("https://jo@mail.acme.org", {}),
        ("mail.acme.org", {}),
        ("http://127.0.0.1:8000", {}),
        ("http://mail.acme.org", {"insecure_http": True}),
    ],
)
def test_inv_13_an_origin_is_https_unless_it_is_loopback_and_said_to_be_insecure(origin, options):
    with pytest.raises(MisuseError):
        HttpAuth(MAIL, origin, **options)
    HttpAuth(MAIL, "http://127.0.0.1:8000", insecure_http=True)


class Overtaken(Wire):
    """A resource that hears of the step's renewal before the call that is on its way."""

    def __init__(self, answers=1):
        super().__init__()
        self.step, self.answers = None, answers

    async def handle_async_request(self, request):
        if len(self.sent) < self.answers:
            self.renewing = asyncio.create_task(self.step.renew())
            await asyncio.sleep(0)
            self._answers.append(httpx.Response(401, headers={"stepgrant-refusal": "revoked"}))
        return self.handle_request(request)


async def test_a_call_that_its_renewal_overtook_is_made_again_under_the_newer_grant(gateway):
    wire = Overtaken()
    async with gateway.client(), task("Refund") as opened, client(wire) as http, opened.step("mail.send") as wire.step:
        response = await http.post(MAIL + "/outbox/a", json={"to": "jo"})
        newest = wire.step.grant.token
    assert response.status_code == 200
    first, second = (headers for _, headers in wire.sent)
    assert (first["stepgrant-grant"] != newest, second["stepgrant-grant"]) == (True, newest)
    assert first["dpop"] != second["dpop"]


async def test_a_call_is_made_again_once_and_only_if_there_is_a_newer_grant(gateway):
    refused = httpx.Response(401, headers={"stepgrant-refusal": "revoked"})
    wire, overtaken = Wire(refused), Overtaken(answers=9)
    async with gateway.client(), task("Refund") as opened, opened.step("mail.send") as overtaken.step:
        async with client(wire) as http, client(overtaken) as other:
            assert (await http.post(MAIL + "/outbox/a", json={})).status_code == 401
            assert (await other.post(MAIL + "/outbox/a", json={})).status_code == 401
    assert (len(wire.sent), len(overtaken.sent)) == (1, 2)


async def test_inv_8_what_a_redirect_led_to_gets_no_second_request(gateway):
    class Moved(Overtaken):
        async def handle_async_request(self, request):
            if request.url.host != "evil.org":
                self._answers.append(httpx.Response(303, headers={"location": "https://evil.org/"}))
                return self.handle_request(request)
            return await super().handle_async_request(request)

    wire = Moved(answers=2)
    async with gateway.client(), task("Refund") as opened, opened.step("mail.send") as wire.step:
        async with client(wire, follow_redirects=True) as http:
            assert (await http.post(MAIL + "/outbox/a", json={})).status_code == 401
        await wire.renewing
    assert len(wire.sent) == 2


async def test_blocking_calls_that_their_renewal_overtook_are_made_again_too(gateway):
    def send(step, loop):
        class Late(Wire):
            def handle_request(self, request):
                if not self.sent:
                    asyncio.run_coroutine_threadsafe(step.renew(), loop).result(5)
                    self._answers.append(httpx.Response(401, headers={"stepgrant-refusal": "revoked"}))
                return super().handle_request(request)

        with httpx.Client(transport=Late(), auth=HttpAuth(MAIL, MAIL)) as http:
            return http.post(MAIL + "/outbox/a", json={}).status_code

    async with gateway.client(), task("Refund") as opened, opened.step("mail.send") as step:
        assert await asyncio.to_thread(send, step, asyncio.get_running_loop()) == 200


async def test_a_request_that_is_revoked_while_it_runs_raises_revoked(gateway):
    class Slow(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            await gateway.revoke(gateway.declared[-1].step_id)
            await interrupted()

    async with gateway.client(), task("Refund"), client(Slow(), CALLS) as http:
        with pytest.raises(Revoked, match="locked"):
            await http.post(MAIL + "/outbox/a", json={})
        assert asyncio.current_task().cancelling() == 0


async def test_a_request_that_is_no_protected_call_goes_without_a_step(gateway):
    wire = Wire()
    async with gateway.client(), task("Refund"), client(wire, CALLS) as http:
        await http.get(MAIL + "/health")
    assert "stepgrant-grant" not in wire.sent[0][1]
    assert gateway.declared == []


async def test_the_proof_names_the_origin_in_its_normal_form(gateway):
    wire = Wire()
    auth = HttpAuth(MAIL, "https://Mail.ACME.org:443/")
    async with gateway.client(), task("Refund") as opened, opened.step("mail.send") as step:
        async with httpx.AsyncClient(transport=wire, auth=auth) as http:
            await http.post(MAIL + "/outbox/a", json={})
        verify_proof(
            wire.sent[0][1]["dpop"],
            htm="POST",
            htu=MAIL + "/outbox/a",
            grant=step.grant.token,
            now=gateway._now(),
            jkt=step.holder.instance_key.jkt,
            replay=ReplayCache(),
        )


async def test_a_call_that_takes_longer_than_its_grant_is_renewed_like_any_body(gateway):
    clock = ManualClock(datetime.now(UTC))

    class Slow(Wire):
        async def handle_async_request(self, request):
            clock.advance(timedelta(seconds=19))
            await gateway.until(lambda: gateway.renewed)
            return self.handle_request(request)

    async with gateway.client(clock=clock), task("Refund"), client(Slow(), CALLS) as http:
        assert (await http.get(MAIL + "/inbox")).status_code == 200
    assert [one.failed for one in gateway.reported] == [False]
