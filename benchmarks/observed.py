"""`stepgrant serve`, as it is, which answers each line on its standard input with what it sees of itself.

{"census": bool}   -> {"lag_ms", "census"}
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "examples" / "demo"))
from lines import Lines
from observing import Lag, answer

from stepgrant_gateway.cli.serve import suit_interpreter, until_signalled
from stepgrant_gateway.config import load_config
from stepgrant_gateway.wiring import Gateway


async def main() -> None:
    """Serves until SIGTERM."""
    stop, lag = until_signalled(), Lag()
    lines = await Lines.open()
    async with Gateway.start(load_config(Path("gateway.toml"))) as gateway:
        suit_interpreter()
        lag.start()
        lines.say({"gateway": f"127.0.0.1:{gateway.port}"})
        answers = asyncio.create_task(answering(lines, lag))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({answers, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if answers.done():
        answers.result()


async def answering(lines: Lines, lag: Lag) -> None:
    """One answer for each line."""
    while (asked := await lines.hear()) is not None:
        answer(lines, lag, asked)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
