"""`stepgrant serve`: one gateway, until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stepgrant_gateway.cli.exits import reported
from stepgrant_gateway.cli.output import AsJson, print_json, print_line

if TYPE_CHECKING:
    from stepgrant_gateway.config import Config


@reported
def serve(
    config: Annotated[Path, typer.Option("--config", "-c", help="gateway.toml")] = Path("gateway.toml"),
    clock_was_ahead: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="The clock is right now, and was ahead when the ledger's latest event, of this TIME, was recorded.",
        ),
    ] = "",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    logs: Annotated[
        str, typer.Option("--logs", help="json or text; by default text on a terminal, JSON lines elsewhere.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Serves until SIGTERM or SIGINT; then ends streams as `draining`, records that, and stops."""
    from stepgrant_gateway.cli.logs import Form, log_to_stderr
    from stepgrant_gateway.config import load_config

    if logs not in {"", *(form.value for form in Form)}:
        raise typer.BadParameter("json or text is wanted", param_hint="--logs")
    loaded = load_config(config)
    log_to_stderr(verbose=verbose, form=Form(logs) if logs else None)
    asyncio.run(_serve(loaded, as_json=as_json, ahead_until=_time(clock_was_ahead)))


def _time(text: str) -> datetime | None:
    from stepgrant_gateway.core.errors import ConfigError

    try:
        time = datetime.fromisoformat(text) if text else None
    except ValueError:
        time = None
    if text and (time is None or time.tzinfo is None):
        raise ConfigError(f"--clock-was-ahead: {text!r} is no time such as 2026-11-22T12:00:00.000000Z")
    return time


async def _serve(config: Config, *, as_json: bool, ahead_until: datetime | None) -> None:
    from stepgrant_gateway.wiring import Gateway

    stop = until_signalled()
    async with Gateway.start(config, ahead_until=ahead_until) as gateway:
        suit_interpreter()
        document = {"gateway": f"{config.gateway.listen.host}:{gateway.port}", "gateway_id": str(config.gateway.issuer)}
        if config.gateway.listen_bearer is not None:
            document["gateway_bearer"] = f"{config.gateway.listen_bearer.host}:{gateway.bearer_port}"
        if as_json:
            print_json({"ready": True, **document, "instance": gateway.instance_id})
        else:
            print_line(f"Serving {config.gateway.issuer} at {document['gateway']}.")
            if "gateway_bearer" in document:
                print_line(f"Agents that show a token come in at {document['gateway_bearer']}.")
        await stop.wait()


def suit_interpreter() -> None:
    """Tells Python what kind of process this is: one loop that must not be held up, and a thread that commits."""
    # The policy set and all modules stay: no collection needs to look at them again.
    gc.collect()
    gc.freeze()
    # A decision makes about a thousand containers, hardly any of them in cycles; by default each would be looked at twice.
    gc.set_threshold(20_000, 20, 20)
    # The ledger's thread asks for the interpreter several times a commit, and would wait 5 ms each time.
    sys.setswitchinterval(0.0005)


def until_signalled() -> asyncio.Event:
    """An event that SIGTERM, SIGINT or SIGHUP sets; needs a running loop. A terminal that closes is no reason to crash."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    return stop
