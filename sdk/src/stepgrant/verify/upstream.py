"""What a verifier needs of the gateway: a port, so that everything above it is tested without a socket."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from stepgrant.feed import FeedEvent, Snapshot
from stepgrant.verify.keys import GatewayAuthority


@dataclass(frozen=True, slots=True)
class Redemption:
    """The gateway's answer to a redemption. `code` and `reason` say why it was not accepted."""

    accepted: bool
    code: str = ""
    reason: str = ""


class Redeemer(Protocol):
    """Takes uses of grants and hears how calls came out."""

    async def redeem(self, audience: str, grant_id: str, redemption_id: str) -> Redemption:
        """Takes one use; the same redemption id gets the same answer.

        Raises:
            StepgrantError: no answer could be had.
        """

    async def attest(self, audience: str, grant_id: str, *, completed: bool, result_sha256: bytes | None) -> None:
        """Tells how a call came out.

        Raises:
            StepgrantError: it could not be told.
        """


class Publisher(Protocol):
    """Sends the feed."""

    def watch(self, audiences: frozenset[str]) -> AsyncGenerator[FeedEvent, None]:
        """Events of a new subscription over a new connection, the snapshot first.

        Raises:
            StepgrantError: it cannot be had, or has ended.
        """

    async def snapshot(self, audiences: frozenset[str]) -> Snapshot:
        """The state of now, over the connection that is there, beside the subscription.

        Raises:
            StepgrantError: it cannot be had.
        """

    def authority(self) -> GatewayAuthority:
        """Who may announce keys, under the bundles of now.

        Raises:
            IdentityUnavailableError: there are none.
        """


class Upstream(Redeemer, Publisher, Protocol):
    """The gateway, as a verifier uses it."""
