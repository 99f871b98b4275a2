"""An identity that shows a JWT-SVID in place of its certificate: the token is fetched anew before it ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from stepgrant.errors import IdentityUnavailableError
from stepgrant.spiffe.ids import SpiffeId
from stepgrant.spiffe.jwt import read_own_jwt_svid
from stepgrant.spiffe.source import IdentitySnapshot, IdentitySource, JwtSvid
from stepgrant.spiffe.subscribers import Subscribers

FIRST_BACKOFF: Final = timedelta(milliseconds=100)
MAX_BACKOFF: Final = timedelta(seconds=5)
SOONEST: Final = timedelta(seconds=1)
"""Least time between two fetches that both brought a token."""
PATIENCE: Final = timedelta(seconds=5)
"""How long the first `current` waits for the first token."""

_log = logging.getLogger(__name__)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class JwtSvidSource:
    """An `IdentitySource` whose snapshots bear a JWT-SVID for `audience`, beside the identity and the bundles of `inner`.

    `fetch` brings a token of an ID for an audience (`jwt_workload.fetch_jwt_svid` at a socket). One thread of its own fetches
    the next one at half of what a token has left, again with a back-off when that fails, and whenever `inner` changes. A token
    counts until it expires. Closing it closes `inner`.
    """

    def __init__(
        self,
        inner: IdentitySource,
        fetch: Callable[[SpiffeId, str], str],
        audience: str,
        *,
        now: Callable[[], datetime] = _utc_now,
        patience: timedelta = PATIENCE,
    ) -> None:
        self._inner = inner
        self._fetch = fetch
        self._audience = audience
        self._now = now
        self._patience = patience
        self._svid: JwtSvid | None = None
        self._why = "none was fetched yet"
        self._answered = threading.Event()
        self._wake = threading.Event()
        self._closed = False
        self._subscribers = Subscribers()
        self._unsubscribe = inner.subscribe(self._inner_changed)
        self._thread = threading.Thread(target=self._keep, name="stepgrant-jwt-svid", daemon=True)
        self._thread.start()

    def current(self) -> IdentitySnapshot:
        """The newest snapshot, with a token that is valid now. Blocks, at most for `patience`, only before the first answer.

        Raises:
            IdentityUnavailableError: there is no identity, or no token of it.
        """
        snapshot = self._inner.current()
        self._answered.wait(self._patience.total_seconds())
        svid, why = self._svid, self._why
        if svid is None or svid.spiffe_id != snapshot.spiffe_id or self._now() >= svid.not_after:
            raise IdentityUnavailableError(
                f"no JWT-SVID of {snapshot.spiffe_id} for {self._audience}: {why}; check that the Workload API serves them"
            )
        return replace(snapshot, jwt_svid=svid, not_after=min(snapshot.not_after, svid.not_after))

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` after each change of the token or of `inner`; see `IdentitySource`."""
        return self._subscribers.add(callback)

    def close(self) -> None:
        """Ends the thread and `inner`; afterwards `current` raises."""
        self._closed = True
        self._unsubscribe()
        self._wake.set()
        self._inner.close()
        self._thread.join(timeout=5)
        self._svid, self._why = None, "the identity source is closed"
        self._answered.set()

    def _keep(self) -> None:
        backoff = FIRST_BACKOFF
        while True:
            # Cleared before `_closed` is looked at: `close` sets both, in the other order.
            self._wake.clear()
            if self._closed:
                return
            try:
                svid = self._fetched()
            except Exception as error:  # noqa: BLE001 - whatever it was, the thread goes on, or no token would be fetched any more
                self._why = str(error)
                _log.warning("No new JWT-SVID: %s", error)
                pause, backoff = backoff, min(backoff * 2, MAX_BACKOFF)
            else:
                pause, backoff = max((svid.not_after - self._now()) / 2, SOONEST), FIRST_BACKOFF
            self._answered.set()
            self._wake.wait(pause.total_seconds())

    def _fetched(self) -> JwtSvid:
        spiffe_id = self._inner.current().spiffe_id
        token = self._fetch(spiffe_id, self._audience)
        svid = read_own_jwt_svid(token, spiffe_id, self._audience, self._now())
        if svid != self._svid:
            self._svid, self._why = svid, "it has expired, and no newer one was to be had"
            self._answered.set()
            _log.info("JWT-SVID of %s, valid until %s", spiffe_id, svid.not_after)
            self._subscribers.notify()
        return svid

    def _inner_changed(self) -> None:
        self._wake.set()
        self._subscribers.notify()
