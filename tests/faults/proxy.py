"""A network between two ends that does what the test says: passes on, holds back, swallows, cuts, or garbles."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum


class Network(Enum):
    """What becomes of bytes."""

    WHOLE = "passes on"
    BLACK_HOLE = "takes everything and passes nothing on, in both directions"
    DEAF = "passes nothing on from the server to the client"
    GARBLED = "changes one byte of each piece"


@dataclass(slots=True)
class Proxy:
    """Stands at `port` for a server at `target`; `network` can be set at any time, also for connections that are there."""

    target: int
    port: int = 0
    network: Network = Network.WHOLE
    delay: float = 0.0
    """Seconds that each piece takes."""
    connections: set[asyncio.StreamWriter] = field(default_factory=set)
    carried: int = 0

    def cut(self) -> None:
        """Resets every connection, without a goodbye to either end."""
        for writer in list(self.connections):
            with suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self.connections |= {writer, there_writer}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(reader, there_writer, back=False))
                group.create_task(self._carry(there_reader, writer, back=True))
        except* OSError:
            pass
        finally:
            self.connections -= {writer, there_writer}
            writer.transport.abort()
            there_writer.transport.abort()

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, back: bool) -> None:
        while piece := await source.read(65_536):
            if self.delay:
                await asyncio.sleep(self.delay)
            if self.network is Network.BLACK_HOLE or (self.network is Network.DEAF and back):
                continue
            if self.network is Network.GARBLED:
                piece = piece[:-1] + bytes((piece[-1] ^ 0x55,))
            sink.write(piece)
            self.carried += len(piece)
            await sink.drain()
        if self.network is Network.WHOLE:
            sink.close()


@asynccontextmanager
async def proxy(target: int) -> AsyncIterator[Proxy]:
    """A proxy in front of 127.0.0.1:`target`."""
    built = Proxy(target)
    handlers: set[asyncio.Task[None]] = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(built.serve(reader, writer))
        handlers.add(task)
        task.add_done_callback(handlers.discard)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    built.port = server.sockets[0].getsockname()[1]
    try:
        yield built
    finally:
        server.close()
        built.cut()
        for task in list(handlers):
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
