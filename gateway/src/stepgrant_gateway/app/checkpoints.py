"""Checkpoints: signed statements of how long a chain is, which resources remember (design 7)."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Final

from stepgrant_gateway.core.chain import checkpoint_message
from stepgrant_gateway.core.ledger import ChainHead
from stepgrant_gateway.core.ports import Clock, SvidSigner
from stepgrant_gateway.core.revocation import Checkpoint

logger = logging.getLogger(__name__)

CHECKPOINT_EVENTS: Final = 1024
CHECKPOINT_SPAN: Final = timedelta(seconds=5)


class Checkpoints:
    """Signs the head of one chain when that is due; the latest statement never goes back."""

    def __init__(self, signer: SvidSigner, clock: Clock) -> None:
        self._signer = signer
        self._clock = clock
        self._latest: Checkpoint | None = None
        self._signed_at = timedelta(0)

    def of(self, head: ChainHead) -> Checkpoint | None:
        """The latest statement, of `head` when a new one is due; None before the first event.

        Due also when nothing was recorded meanwhile: the SVID that has signed it expires, and who begins to watch then
        could not verify it.
        """
        last, now = self._latest, self._clock.monotonic()
        if head.sequence == 0:
            return last
        ahead = head.sequence - (last.sequence if last else 0)
        if last is None or ahead >= CHECKPOINT_EVENTS or now - self._signed_at >= CHECKPOINT_SPAN:
            try:
                signature, chain = self._signer.sign(checkpoint_message(head))
            except Exception:
                logger.exception(
                    "the ledger's checkpoint could not be signed; the one before stays",
                    extra={"event": "checkpoint_not_signed"},
                )
                return last
            self._latest = Checkpoint(head.instance_id, head.sequence, head.hash, chain, signature)
            self._signed_at = now
        return self._latest
