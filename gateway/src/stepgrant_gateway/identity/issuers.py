"""The OIDC issuers that are configured for one purpose, each with its keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from stepgrant.errors import InvalidInputError
from stepgrant.spiffe.subscribers import Subscribers
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.core.ports import Clock
from stepgrant_gateway.identity.discovery import OidcIssuer, fetch_keys
from stepgrant_gateway.identity.jwks import KeySet
from stepgrant_gateway.identity.oidc import Trust
from stepgrant_gateway.identity.oidc_keys import IssuerKeys


class Issuers:
    """What is trusted of whom, by the exact text of `iss`. For one event loop."""

    def __init__(self, settings: Sequence[OidcIssuer], clock: Clock) -> None:
        """Nothing is fetched yet."""
        self._settings = {of.issuer: of for of in settings}
        self._subscribers = Subscribers()
        changed = self._subscribers.notify
        self._keys = {of.issuer: IssuerKeys(of.issuer, partial(fetch_keys, of), clock, changed) for of in settings}

    def __contains__(self, issuer: object) -> bool:
        """True for the `iss` of one that is configured."""
        return issuer in self._settings

    def subscribe(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Has `callback` called each time that an issuer has other keys than before; returns what ends that."""
        return self._subscribers.add(callback)

    async def begin(self) -> None:
        """Fetches all keys once. An issuer that is away is asked again later, and until then its tokens are refused.

        Raises:
            ConfigError: a file of keys cannot be used.
        """
        for keys in self._keys.values():
            keys.begin()
        await self.settled()
        for of in self._settings.values():
            try:
                self._keys[of.issuer].current()
            except InvalidInputError as error:
                if of.jwks is not None:
                    raise ConfigError(
                        f"{of.jwks}: holds no keys of {of.issuer} that can be used; see the log"
                    ) from error

    async def settled(self) -> None:
        """Returns once nothing is being fetched."""
        await asyncio.gather(*(keys.fetched() for keys in self._keys.values()))

    def stop(self) -> None:
        """Fetches no more."""
        for keys in self._keys.values():
            keys.stop()

    def trust_in(self, issuer: str) -> Trust:
        """What is trusted of the issuer; raises InvalidInputError for one that is not configured, or whose keys are not known."""
        of = self._settings.get(issuer)
        if of is None:
            raise InvalidInputError("its `iss` is no issuer that is configured for this")
        return Trust(of.audience, of.parties, self._keys[issuer].current())

    def held(self) -> Mapping[str, KeySet]:
        """By issuer: the keys that were fetched last, however long ago that was."""
        return {issuer: keys.held for issuer, keys in self._keys.items() if keys.held is not None}

    def missing_key(self, issuer: str) -> bool:
        """A token of this issuer names a key that is not known: True if its keys are being fetched, so that it may be soon."""
        return self._keys[issuer].missing()

    def holds(self, issuer: str, key_sha256: bytes) -> bool:
        """Whether the key is one of the issuer's still, as far as is known: keys that are too old are no reason to say no."""
        held = self.held().get(issuer)
        return held is not None and key_sha256 in held.sha256.values()
