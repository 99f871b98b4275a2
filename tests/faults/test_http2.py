"""Group E: frames that no honest client sends (TR-03, TR-04). Whatever they are, other connections go on."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from stepgrant_gateway.rpc.limits import MAX_MESSAGE_BYTES, MAX_METADATA_BYTES
from tests.faults.http2 import (
    END_HEADERS,
    PERFORM_TASK,
    REFUSED_STREAM,
    Frame,
    Http2,
    frame,
    headers,
    http2,
    integer,
    literal,
    message,
)
from tests.kit.agent import Agent, declaring
from tests.kit.face import Face, serving

MANY = 20_000
CALL = headers(PERFORM_TASK)
OPENED = frame(Frame.HEADERS, END_HEADERS, 1, CALL)


@asynccontextmanager
async def beside_an_agent() -> AsyncIterator[tuple[Face, Http2]]:
    """A hostile connection to a face whose other connection has a task, which goes on at the end."""
    face = Face()
    async with serving(face) as channel, http2(face.port) as hostile:
        agent = Agent(channel)
        await agent.open()
        yield face, hostile
        await agent.send(declare=declaring())
        assert (await agent.read()).granted.grant


def rapid_reset() -> Iterator[bytes]:
    for stream in itertools.count(1, 2):
        yield frame(Frame.HEADERS, END_HEADERS, stream, CALL) + frame(Frame.RST_STREAM, 0, stream, bytes(4))


def endless(first: bytes, then: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: itertools.chain((first,), itertools.repeat(then))


async def test_tr_03_of_a_flood_of_calls_that_are_reset_at_once_most_are_refused():
    """Each counts against the streams of its connection until it is gone (CVE-2023-44487)."""
    async with beside_an_agent() as (face, hostile):
        await hostile.flood(rapid_reset(), MANY)
        await hostile.until("resets")
        before = len(face.live)

    assert set(hostile.resets.values()) == {REFUSED_STREAM}
    # Those that were let in one after the other and are on their way out, and the agent's.
    assert before < MANY / 1000


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(endless(b"", frame(Frame.PING, payload=bytes(8))), id="pings"),
        pytest.param(
            endless(frame(Frame.HEADERS, 0, 1, CALL), frame(Frame.CONTINUATION, 0, 1)), id="empty continuations"
        ),
        pytest.param(endless(OPENED, frame(Frame.DATA, 0, 1)), id="empty data"),
        pytest.param(endless(OPENED, frame(Frame.DATA, 0, 1, bytes(1 << 20))), id="frames beyond the agreed size"),
    ],
)
async def test_tr_03_a_flood_that_says_nothing_ends_its_connection(frames):
    async with beside_an_agent() as (_, hostile):
        sent = await hostile.flood(frames(), MANY * 10)
        await hostile.over()

    assert sent < MANY * 10


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(endless(b"", frame(Frame.SETTINGS)), id="settings"),
        pytest.param(
            endless(frame(Frame.HEADERS, 0, 1, CALL), frame(Frame.CONTINUATION, 0, 1, literal("x-more", "x" * 1000))),
            id="continuations without an end",
        ),
        pytest.param(endless(OPENED, frame(Frame.DATA, 0, 1, b"\0")), id="data of one byte"),
        pytest.param(endless(OPENED, frame(Frame.WINDOW_UPDATE, 0, 1, (1).to_bytes(4, "big"))), id="window updates"),
    ],
)
async def test_tr_03_a_flood_that_the_protocol_allows_keeps_nobody_from_its_grant(frames):
    """What is read is answered, bounded by flow control, or thrown away: the sender waits, not the others."""
    async with beside_an_agent() as (_, hostile):
        flooding = asyncio.create_task(hostile.flood(frames(), MANY))
        await hostile.until("heard")
    await flooding


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(CALL + literal("x-huge", "x" * MAX_METADATA_BYTES), id="metadata beyond the bound"),
        pytest.param(CALL + b"\0" + integer(6, 7) + b"x-huge" + integer(1 << 30, 7), id="a gigabyte announced"),
        pytest.param(CALL + b"\0" + integer(130, 7, padding=20), id="a padded integer"),
        pytest.param(CALL + b"\0" + b"\xff" * 12, id="an integer beyond 32 bits"),
        pytest.param(CALL + bytes((0x80 | 126,)), id="an index that is in no table"),
        pytest.param(CALL + b"\x3f" + integer(1 << 28, 5)[1:], id="a table beyond what was agreed"),
        pytest.param(CALL + b"\0\x83\xff\xff\xff\x01x", id="what is no Huffman code"),
    ],
)
async def test_tr_04_headers_that_are_none_reach_no_handler(block):
    async with beside_an_agent() as (face, hostile):
        before = len(face.tasks.requests)
        await hostile.send(Frame.HEADERS, END_HEADERS, 1, block)
        await hostile.refused(1)

    assert len(face.tasks.requests) == before
    assert len(face.denied) == 0


async def test_tr_04_what_one_connection_put_into_its_table_is_not_in_anothers():
    indexed = b"\x40" + literal("x-secret", "canary")[1:]
    async with beside_an_agent() as (face, hostile), http2(face.port) as other:
        await hostile.send(Frame.HEADERS, END_HEADERS, 1, CALL + indexed)
        await hostile.until("heard")
        await other.send(Frame.HEADERS, END_HEADERS, 1, CALL + bytes((0x80 | 62,)))
        await other.refused(1)


async def test_tr_04_a_message_beyond_the_bound_is_refused_by_its_length_alone():
    async with beside_an_agent() as (_, hostile):
        await hostile.call(1)
        await hostile.send(Frame.DATA, 0, 1, message(bytes(MAX_MESSAGE_BYTES + 1))[:64])
        await hostile.refused(1)
