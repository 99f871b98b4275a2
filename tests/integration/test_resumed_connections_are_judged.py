"""gRPC's server resumes TLS sessions, and TLS then looks at no certificate again: whoever comes that way is judged all the same."""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from tests.faults.http2 import END_HEADERS, PERFORM_TASK, PREFACE, Frame, frame, headers, tls_of
from tests.kit.ca import TestAuthority
from tests.kit.clocked import SetClock
from tests.kit.partners import PARTNER, Partners, partners

WITHIN = 10


@dataclass(frozen=True, slots=True)
class Connected:
    """What became of one connection: whether its session was an earlier one's, and whether its call was served."""

    session: ssl.SSLSession
    resumed: bool
    served: bool


def connect(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None) -> Connected:
    """One connection with one call, which is served if the gateway says its first word."""
    with (
        socket.create_connection(("127.0.0.1", port), WITHIN) as plain,
        context.wrap_socket(plain, session=session) as tls,
    ):
        begin = frame(Frame.SETTINGS) + frame(Frame.HEADERS, END_HEADERS, 1, headers(PERFORM_TASK))
        tls.sendall(PREFACE + begin)
        reader = tls.makefile("rb")
        first = (Frame.SETTINGS, 0)
        # The answer is a message on stream 1, or headers that end it.
        while first != (Frame.DATA, 1):
            head = reader.read(9)
            first = (Frame(head[3]), int.from_bytes(head[5:], "big"))
            reader.read(int.from_bytes(head[:3], "big"))
            if first == (Frame.HEADERS, 1) and head[4] & 0x1:
                break
        assert tls.session is not None
        return Connected(tls.session, bool(tls.session_reused), first == (Frame.DATA, 1))


async def connecting(site: Partners, context: ssl.SSLContext, before: Connected | None = None) -> Connected:
    return await asyncio.to_thread(connect, site.gateway.port, context, before.session if before else None)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_resumed_connection_is_judged_like_a_new_one(tmp_path, version: ssl.TLSVersion) -> None:
    """INV-11: its certificates, intermediates too, are those of the first handshake, and they are verified here and now."""
    clock = SetClock()
    async with partners(tmp_path, TestAuthority(PARTNER, intermediate=True), clock=clock) as site:
        ends = datetime.now(UTC) + timedelta(hours=1)
        context = tls_of(site.partner.snapshot("agent/support", not_after=ends, now=clock.now()))
        context.maximum_version = version

        first = await connecting(site, context)
        again = await connecting(site, context, first)
        assert (first.resumed, first.served) == (False, True)
        assert (again.resumed, again.served) == (True, True)

        clock.ahead = timedelta(hours=2)
        late = await connecting(site, context, again)
        assert (late.resumed, late.served) == (True, False)
        assert "expired at" in (await site.recorded("identity.denied"))["reason"]


async def test_a_session_of_an_authority_that_left_opens_nothing(tmp_path) -> None:
    async with partners(tmp_path) as site:
        context = tls_of(site.partner.snapshot("agent/support"))
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # so that who is refused hears of it in the handshake
        first = await connecting(site, context)
        site.trust()
        with pytest.raises(OSError, match=r"alert|reset|EOF|closed"):
            await connecting(site, context, first)
