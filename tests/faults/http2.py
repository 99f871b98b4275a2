"""An HTTP/2 client that sends the very frames it is told to (RFC 9113), and notes what the server makes of them."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from tempfile import NamedTemporaryFile
from typing import Final

from stepgrant.spiffe.source import IdentitySnapshot

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
INITIAL_WINDOW_SIZE: Final = 0x4
REFUSED_STREAM: Final = 0x7
PERFORM_TASK: Final = "/stepgrant.v1.AgentGateway/PerformTask"
WITHIN: Final = 30.0
"""Seconds that a server may take to answer before it counts as hung."""
SHUTDOWN_SECONDS: Final = 2.0
"""How long TLS may take to send what it still has, once the server has closed."""


class Frame(IntEnum):
    """Types of frames (RFC 9113, section 6)."""

    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


@dataclass(slots=True)
class Http2:
    """One connection. It acknowledges settings and pings, and never widens a window: who sends it much waits for ever."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    heard: Counter[int] = field(default_factory=Counter)
    resets: dict[int, int] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    goaway: int | None = None
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    answers: bool = True

    async def send(self, kind: Frame, flags: int = 0, stream: int = 0, payload: bytes = b"") -> None:
        """One frame."""
        self.writer.write(frame(kind, flags, stream, payload))
        await self.writer.drain()

    async def flood(self, frames: Iterable[bytes], most: int) -> int:
        """Sends up to `most` frames as fast as they are taken; how many went out before the server closed."""
        sent = 0
        for sent, one in enumerate(frames, start=1):
            if self.closed.is_set() or self.writer.is_closing() or sent > most:
                break
            try:
                self.writer.write(one)
                if sent % 64 == 0:
                    await asyncio.wait_for(self.writer.drain(), WITHIN)
                    await asyncio.sleep(0)
            except (ConnectionError, ssl.SSLError):
                break
        return sent

    async def call(self, stream: int, path: str = PERFORM_TASK, *, extra: Iterable[tuple[str, str]] = ()) -> None:
        """Begins a gRPC call."""
        await self.send(Frame.HEADERS, END_HEADERS, stream, headers(path, extra))

    async def until(self, seen: str) -> None:
        """Returns when attribute `seen` is something; fails the test when it takes too long."""
        async with asyncio.timeout(WITHIN), self.changed:
            await self.changed.wait_for(lambda: bool(getattr(self, seen)))

    async def say(self, stream: int, body: bytes) -> None:
        """One gRPC message on a call that was begun."""
        await self.send(Frame.DATA, 0, stream, message(body))

    async def refused(self, stream: int) -> None:
        """Returns when the server has ended this stream, or the whole connection."""
        async with asyncio.timeout(WITHIN), self.changed:
            await self.changed.wait_for(lambda: stream in self.ended or stream in self.resets or self.closed.is_set())

    async def over(self) -> int | None:
        """Returns when the server has closed the connection: what its GOAWAY said, if it said one."""
        await asyncio.wait_for(self.closed.wait(), WITHIN)
        return self.goaway

    async def listen(self) -> None:
        """Notes frames until the connection ends."""
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            while True:
                head = await self.reader.readexactly(9)
                size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
                stream = int.from_bytes(head[5:], "big") & 0x7FFFFFFF
                await self._note(kind, flags, stream, await self.reader.readexactly(size))
        self.closed.set()
        async with self.changed:
            self.changed.notify_all()

    async def _note(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self.heard[kind] += 1
        if kind in {Frame.SETTINGS, Frame.PING} and not flags & ACK and self.answers:
            await self.send(Frame(kind), ACK, 0, payload if kind == Frame.PING else b"")
        if kind == Frame.RST_STREAM:
            self.resets[stream] = int.from_bytes(payload, "big")
        if kind in {Frame.DATA, Frame.HEADERS} and flags & END_STREAM:
            self.ended.add(stream)
        if kind == Frame.GOAWAY:
            self.goaway = int.from_bytes(payload[4:8], "big")
        async with self.changed:
            self.changed.notify_all()


@asynccontextmanager
async def http2(
    port: int, context: ssl.SSLContext | None = None, *, window: int = 65_535, answers: bool = True
) -> AsyncIterator[Http2]:
    """A connection to 127.0.0.1, after preface and settings; streams begin with `window` for what the server says.

    `answers` False: acknowledges neither settings nor pings.
    """
    # asyncio says that TLS has ended only when all that was written is out, or when this has passed, by default as long as WITHIN.
    shutdown = None if context is None else SHUTDOWN_SECONDS
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, ssl_shutdown_timeout=shutdown)
    connection = Http2(reader, writer, answers=answers)
    writer.write(PREFACE + frame(Frame.SETTINGS, payload=struct.pack(">HI", INITIAL_WINDOW_SIZE, window)))
    await writer.drain()
    listening = asyncio.create_task(connection.listen())
    try:
        yield connection
    finally:
        listening.cancel()
        writer.transport.abort()  # gRPC answers no close_notify of TLS, and nobody should wait for one.


def tls_of(snapshot: IdentitySnapshot | None) -> ssl.SSLContext:
    """TLS that shows this identity, or none, and takes any server: who is attacked need not be verified."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if snapshot is not None:
        with NamedTemporaryFile() as chain:
            chain.write(snapshot.chain_pem + snapshot.private_key_pem)
            chain.flush()
            context.load_cert_chain(chain.name)
    return context


def frame(kind: Frame, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """The bytes of one frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def headers(path: str, extra: Iterable[tuple[str, str]] = ()) -> bytes:
    """The header block of a gRPC call."""
    fields = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *extra,
    ]
    return b"".join(literal(name, value) for name, value in fields)


def literal(name: str, value: str) -> bytes:
    """A header field without indexing and without Huffman coding (RFC 7541, section 6.2.2)."""
    return b"\x00" + b"".join(integer(len(text), 7) + text.encode("ascii") for text in (name, value))


def integer(value: int, prefix: int, padding: int = 0) -> bytes:
    """An integer of HPACK (RFC 7541, section 5.1); `padding` adds bytes that say nothing."""
    most = (1 << prefix) - 1
    if value < most and not padding:
        return bytes((value,))
    said, rest = bytearray((most,)), value - most
    while rest >= 128:
        said.append(rest % 128 | 128)
        rest //= 128
    said.append(rest | (128 if padding else 0))
    said += b"\x80" * (padding - 1) + (b"\x00" if padding else b"")
    return bytes(said)


def message(body: bytes) -> bytes:
    """A gRPC message: not compressed, length, bytes."""
    return b"\x00" + len(body).to_bytes(4, "big") + body
