"""Keeps the keys of one OIDC issuer fresh: fetched beforehand and in the background, never while anybody waits for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from stepgrant.errors import InvalidInputError
from stepgrant_gateway.core.ports import Clock, Timer
from stepgrant_gateway.identity.jwks import KeySet

REFRESH: Final = timedelta(minutes=5)
"""From one good answer to the next question: a key that the issuer has taken out is out here within that."""
RETRY: Final = timedelta(seconds=15)
"""From a bad answer to the next question."""
MAX_AGE: Final = timedelta(hours=1)
"""How long the last good set counts when no other is to be had. Then the issuer's tokens are refused."""
ASK_AGAIN: Final = timedelta(seconds=30)
"""The least time between two fetches that tokens with an unknown key bring about: anybody can make up a `kid`."""

logger = logging.getLogger(__name__)


class IssuerKeys:
    """The last good key set of one issuer, from `begin` on. For one event loop."""

    def __init__(
        self, issuer: str, fetch: Callable[[], KeySet], clock: Clock, changed: Callable[[], None] = lambda: None
    ) -> None:
        """`fetch` blocks within bounds of its own and raises FetchError; `changed` hears of each other set."""
        self.issuer = issuer
        self._fetch = fetch
        self._clock = clock
        self._changed = changed
        self._held: KeySet | None = None
        self._held_since = clock.monotonic()
        self._asked: timedelta | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._timer: Timer | None = None

    def current(self) -> KeySet:
        """The keys.

        Raises:
            InvalidInputError: none are known, or those that are known are too old.
        """
        if self._held is None or self._clock.monotonic() - self._held_since > MAX_AGE:
            raise InvalidInputError(f"the keys of {self.issuer} are not known now")
        return self._held

    @property
    def held(self) -> KeySet | None:
        """The set that was fetched last, however long ago that was."""
        return self._held

    def missing(self) -> bool:
        """A token names a key that is not in the set: True if the set is being fetched, so that asking again makes sense."""
        if self._fetching is None:
            now = self._clock.monotonic()
            if self._asked is not None and now - self._asked < ASK_AGAIN:
                return False
            self._asked = now
            self.begin()
        return True

    def begin(self) -> None:
        """Fetches the set, now and each time that it is due."""
        if self._fetching is None:
            self._no_timer()
            self._fetching = asyncio.get_running_loop().create_task(self._refresh())

    async def fetched(self) -> None:
        """Returns once what is being fetched has come, or has not; at once if nothing is."""
        if self._fetching is not None:
            await asyncio.wait({self._fetching})

    def stop(self) -> None:
        """Fetches no more."""
        self._no_timer()
        if self._fetching is not None:
            self._fetching.cancel()

    async def _refresh(self) -> None:
        try:
            fresh = await asyncio.to_thread(self._fetch)
        except Exception as error:  # noqa: BLE001 - whatever it is, the keys must be asked for again
            wait = RETRY
            logger.error(  # noqa: TRY400 - the text says all there is to say
                "%s. The keys of before count until they are %s old.", error, MAX_AGE,
                extra={"event": "issuer_keys_not_fetched"},
            )  # fmt: skip
        else:
            wait, self._held_since = REFRESH, self._clock.monotonic()
            if self._held is None or self._held.digest != fresh.digest:
                logger.info("The keys of %s are here.", self.issuer, extra={"event": "issuer_keys"})
                self._held = fresh
                self._changed()
        self._fetching = None
        self._timer = self._clock.call_at(self._clock.monotonic() + wait, self.begin)

    def _no_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
