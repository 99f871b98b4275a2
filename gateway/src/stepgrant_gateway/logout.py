"""The listener at which issuers log users out, between its threads and the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Final

from stepgrant.errors import InvalidInputError
from stepgrant_gateway.app.logging_out import LoggingOut
from stepgrant_gateway.identity.logout import LogoutTokens
from stepgrant_gateway.web.listener import Listener
from stepgrant_gateway.web.logout import PATH, logout_page
from stepgrant_gateway.web.settings import LogoutSettings

ANSWERS_WITHIN: Final = 4.0
"""Seconds that an issuer waits for the event loop: less than it may take to read the answer."""


@contextmanager
def logging_out(settings: LogoutSettings, tokens: LogoutTokens, use_case: LoggingOut) -> Iterator[int | None]:
    """The time in which logouts are taken, and the port; None if they are not. To be entered on the event loop.

    Raises:
        ConfigError: nothing can listen at the address.
    """
    if settings.address is None:
        yield None
        return
    loop = asyncio.get_running_loop()

    async def take(token: str) -> str:
        try:
            use_case.log_out(tokens.verify(token))
        except InvalidInputError as error:
            return f"the logout token is not taken: {error}"
        return ""

    def log_out(token: str) -> str:
        future = asyncio.run_coroutine_threadsafe(take(token), loop)
        try:
            return future.result(ANSWERS_WITHIN)
        except (TimeoutError, CancelledError) as error:
            raise TimeoutError from error

    listener = Listener(settings.address, {}, posts={PATH: logout_page(log_out)}, name="logout")
    try:
        yield listener.port
    finally:
        listener.close()
