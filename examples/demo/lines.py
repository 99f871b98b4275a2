"""How the children of the demo are spoken to: a line of JSON on standard input, a line of JSON on standard output."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Self


class Lines:
    """The two pipes of this process. Cancelling `hear` loses nothing."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    @classmethod
    async def open(cls) -> Self:
        """Takes over standard input."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        return cls(reader)

    async def hear(self) -> dict[str, Any] | None:
        """The next message; None when there will be none."""
        line = await self._reader.readline()
        heard: dict[str, Any] | None = json.loads(line) if line else None
        return heard

    async def end(self) -> None:
        """Returns when the other side has nothing more to say."""
        while await self.hear() is not None:
            pass

    def say(self, message: object) -> None:
        """One message."""
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()
