"""What a resource trusts of its gateway at this moment: keys, checkpoints, and the view of one live subscription."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta

from stepgrant.errors import InvalidInputError, InvalidSvidError, ProtocolError
from stepgrant.feed import AnnouncedKey, FeedEvent, Heartbeat, Snapshot
from stepgrant.verify.keys import Checkpoints, GatewayAuthority, TrustedKey, TrustedKeys
from stepgrant.verify.view import RevocationView

_log = logging.getLogger(__name__)


class TrustedFeed:
    """Keys and view that verification reads. Only events whose signatures verify get in; a failure ends trust."""

    def __init__(self, audiences: frozenset[str]) -> None:
        self._audiences = audiences
        self._keys = TrustedKeys()
        self._checkpoints = Checkpoints()
        self._view = RevocationView(audiences)

    @property
    def view(self) -> RevocationView:
        """The view of the live subscription."""
        return self._view

    @property
    def audiences(self) -> frozenset[str]:
        """What is subscribed to."""
        return self._audiences

    def key(self, kid: str, now: datetime) -> TrustedKey | None:
        """The key, if it is trusted now."""
        return self._keys.get(kid, now)

    def lose(self, reason: str) -> None:
        """Ends trust until another subscription has begun."""
        self._view.lose(reason)

    def begin(self, event: FeedEvent, authority: GatewayAuthority, now: datetime, monotonic: timedelta) -> None:
        """A new subscription takes over with its snapshot: its keys only, its view only.

        Raises:
            ProtocolError: it is not a snapshot that verifies. What was trusted before is untouched.
        """
        if not isinstance(event.item, Snapshot):
            raise ProtocolError("the feed does not begin with a snapshot")
        known, keys = self._keys.copy(), TrustedKeys()
        try:
            _accept_each(known, event.item.keys, authority, now)  # an id must not have stood for another key
            _accept_each(keys, event.item.keys, authority, now)
            self._hear(event.item.heartbeat, authority, now)
        except InvalidInputError as error:
            raise ProtocolError(f"the feed's snapshot does not verify: {error}") from error
        view = RevocationView(self._audiences)
        view.apply(event, monotonic)
        self._keys, self._view = keys, view

    def receive(self, event: FeedEvent, authority: GatewayAuthority, now: datetime, monotonic: timedelta) -> None:
        """The next event of the live subscription.

        Raises:
            ProtocolError: it does not verify or does not follow. Trust has ended.
        """
        try:
            if isinstance(event.item, AnnouncedKey):
                self._keys.accept(event.item, authority, now)
            elif isinstance(event.item, Heartbeat):
                self._hear(event.item, authority, now)
        except InvalidInputError as error:
            self._view.lose(str(error))
            raise ProtocolError(f"an event of the feed does not verify: {error}") from error
        self._view.apply(event, monotonic)

    def learn_keys(self, announced: Iterable[AnnouncedKey], authority: GatewayAuthority, now: datetime) -> None:
        """Trusts further keys, fetched because a grant named one that was not known.

        Raises:
            InvalidInputError: one of them is not fit to be a key; none of them is trusted.
        """
        keys = self._keys.copy()
        _accept_each(keys, announced, authority, now)
        self._keys = keys

    def _hear(self, heartbeat: Heartbeat, authority: GatewayAuthority, now: datetime) -> None:
        if heartbeat.checkpoint is not None:
            if heartbeat.checkpoint.instance_id != heartbeat.instance_id:
                raise ProtocolError("a heartbeat carries the checkpoint of another instance")
            self._checkpoints.accept(heartbeat.checkpoint, authority, now)


def _accept_each(
    keys: TrustedKeys, announced: Iterable[AnnouncedKey], authority: GatewayAuthority, now: datetime
) -> None:
    for one in announced:
        try:
            keys.accept(one, authority, now)
        except InvalidSvidError as error:
            # Announced under an SVID that has run out since: not trusted, and no reason to trust nothing at all.
            _log.warning("Key %s is not trusted: %s", one.kid, error)
