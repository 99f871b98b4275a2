"""What follows when the own identity, a bundle or the keys of an issuer are others than before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from stepgrant.errors import StepgrantError
from stepgrant.spiffe.source import IdentitySource
from stepgrant_gateway.app.disowning import Disowning
from stepgrant_gateway.app.feed import Feed
from stepgrant_gateway.identity.issuers import Issuers
from stepgrant_gateway.rpc.live import LiveCalls
from stepgrant_gateway.tokens.keys import SigningKeys

_log = logging.getLogger(__name__)


@contextmanager
def following(
    identity: IdentitySource, users: Issuers, workloads: Issuers, *, live: LiveCalls, disowning: Disowning,
    keys: SigningKeys, feed: Feed,
) -> Iterator[None]:  # fmt: skip
    """The time in which each such change takes its effect at once. To be entered on the event loop.

    Streams whose caller does not verify any more end, and so do the tasks of users who were proven by a key that has gone.
    """
    loop = asyncio.get_running_loop()

    def changed() -> None:
        """Keys are vouched for by the SVID of now, and who no longer verifies is gone."""
        try:
            for key in keys.announcements():
                feed.publish(key)
        except StepgrantError:
            _log.exception(
                "Signing keys could not be announced under the new SVID.", extra={"event": "keys_not_announced"}
            )
        live.verify_again()

    def hear() -> None:
        loop.call_soon_threadsafe(changed)

    with ExitStack() as stack:
        stack.callback(identity.subscribe(hear))
        stack.callback(workloads.subscribe(live.verify_again))
        stack.callback(users.subscribe(disowning.look))
        yield
