"""When a bundle is fetched again, and whether what was fetched may take the place of what is held. Pure.

SPIFFE Federation, sections 4.1, 4.2 and 6.2; Trust Domain and Bundle, section 4.1.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from stepgrant.spiffe.bundles import BundleDocument
from stepgrant.spiffe.jwt_bundle import JwtBundle
from stepgrant_gateway.core.errors import BundleRefusedError

DEFAULT: Final = timedelta(minutes=5)
"""Between two fetches where the bundle gives no `spiffe_refresh_hint` (SPIFFE Federation, section 4.1)."""
LEAST: Final = timedelta(seconds=10)
MOST: Final = timedelta(hours=1)
"""However lazy a partner's hint is, an authority that it took out is out here within that."""
FIRST_RETRY: Final = timedelta(seconds=10)
SPREAD: Final = 0.1
"""Pauses are up to this part shorter or longer, so that not all gateways ask at once."""
STALE_AFTER: Final = 3
"""A bundle is stale when so many times its interval has gone by without a good answer (section 4.1: new keys are published
3 to 5 intervals before they are used)."""


def accept(held: BundleDocument | None, fresh: BundleDocument) -> BundleDocument:
    """What is held from now on, after `fresh` came: `held` itself if nothing but order changed.

    Raises:
        BundleRefusedError: `fresh` is older than what is held, or is another one under the same number.
    """
    if held is None:
        return fresh
    trust_domain, before, now = fresh.bundle.trust_domain, held.sequence, fresh.sequence
    if before is not None and now is None:
        raise BundleRefusedError(f"the bundle of {trust_domain} has no spiffe_sequence any more; it had {before}")
    if before is not None and now is not None and now < before:
        raise BundleRefusedError(f"the bundle of {trust_domain} went back from spiffe_sequence {before} to {now}")
    same = _content(held) == _content(fresh)
    if before is not None and now == before and not same:
        raise BundleRefusedError(f"the bundle of {trust_domain} has changed under one spiffe_sequence, {before}")
    unchanged = same and before == now and held.refresh_hint_seconds == fresh.refresh_hint_seconds
    return held if unchanged else fresh


def interval(document: BundleDocument | None) -> timedelta:
    """How long after a good answer the next one is asked for: the hint, within LEAST and MOST."""
    hint = None if document is None else document.refresh_hint_seconds
    if not hint:
        return DEFAULT
    return timedelta(seconds=min(max(hint, LEAST.total_seconds()), MOST.total_seconds()))


def pause(document: BundleDocument | None, failures: int, chance: float) -> timedelta:
    """How long to wait after so many failures in a row; `chance`, from 0 up to 1, spreads it."""
    usual = interval(document)
    # The exponent is bounded before it is used: failures go on for as long as a partner is away.
    backoff = FIRST_RETRY * 2 ** min(failures - 1, 16) if failures else usual
    return min(backoff, usual) * (1 - SPREAD + 2 * SPREAD * chance)


def _content(document: BundleDocument) -> object:
    """What a bundle says, without the order in which it says it: servers keep none."""
    keys = (JwtBundle(document.jwt_bundle.trust_domain, (one,)) for one in document.jwt_bundle.authorities)
    return frozenset(document.bundle.authorities), frozenset(key.revision for key in keys)
