"""When a bundle is asked for again, and which may take the place of another."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from stepgrant.jose import VerificationKey
from stepgrant.spiffe.bundles import BundleDocument, X509Bundle
from stepgrant.spiffe.jwt_bundle import JwtBundle
from stepgrant_gateway.core.errors import BundleRefusedError
from stepgrant_gateway.identity.refreshing import DEFAULT, FIRST_RETRY, LEAST, MOST, accept, interval, pause
from tests.kit.ca import TestAuthority

FIRST, SECOND = TestAuthority("partner.test").bundle(), TestAuthority("partner.test").bundle()
EVEN = 0.5


def document(
    *bundles: X509Bundle, jwt: tuple[VerificationKey, ...] = (), sequence: int | None = 7, hint: int | None = None
) -> BundleDocument:
    authorities = tuple(der for bundle in bundles for der in bundle.authorities)
    return BundleDocument(X509Bundle("partner.test", authorities), JwtBundle("partner.test", jwt), sequence, hint)


def jwt_authority(kid: str) -> VerificationKey:
    return VerificationKey(kid, "jwt-svid", frozenset({"ES256"}), ec.generate_private_key(ec.SECP256R1()).public_key())


HELD = document(FIRST)


@pytest.mark.parametrize(
    "fresh",
    [
        document(FIRST, SECOND, sequence=8),
        document(SECOND, sequence=9),
        document(sequence=8),
        document(FIRST, sequence=8),
        document(FIRST, hint=60),
    ],
)
def test_what_is_newer_takes_the_place_of_what_is_held(fresh: BundleDocument) -> None:
    assert accept(None, fresh) is fresh
    assert accept(HELD, fresh) is fresh


def test_without_numbers_what_came_last_is_the_newest() -> None:
    """SPIFFE Federation, section 4.2."""
    held, fresh = document(FIRST, sequence=None), document(SECOND, sequence=None)
    assert accept(held, fresh) is fresh
    assert accept(held, HELD) is HELD


def test_what_differs_in_order_only_is_what_is_held() -> None:
    one, other = jwt_authority("1"), jwt_authority("2")
    held = document(FIRST, SECOND, jwt=(one, other))
    assert accept(held, document(SECOND, FIRST, jwt=(other, one))) is held


@pytest.mark.parametrize(
    ("fresh", "why"),
    [
        (document(FIRST, SECOND, sequence=6), "went back from spiffe_sequence 7 to 6"),
        (document(FIRST, sequence=0), "went back from spiffe_sequence 7 to 0"),
        (document(SECOND), "has changed under one spiffe_sequence, 7"),
        (document(), "has changed under one spiffe_sequence, 7"),
        (document(FIRST, jwt=(jwt_authority("1"),)), "has changed under one spiffe_sequence, 7"),
        (document(FIRST, sequence=None), "has no spiffe_sequence any more; it had 7"),
    ],
)
def test_what_is_older_or_another_one_under_the_same_number_is_refused(fresh: BundleDocument, why: str) -> None:
    """INV-11: `spiffe_sequence` never goes back."""
    with pytest.raises(BundleRefusedError, match=why):
        accept(HELD, fresh)


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (None, DEFAULT),
        (0, DEFAULT),
        (1, LEAST),
        (60, timedelta(minutes=1)),
        (86_400, MOST),
        (10**30, MOST),
    ],
)
def test_the_hint_is_obeyed_within_bounds(hint: int | None, expected: timedelta) -> None:
    assert interval(document(FIRST, hint=hint)) == expected
    assert pause(document(FIRST, hint=hint), 0, EVEN) == expected


def test_failures_back_off_up_to_the_interval_and_never_further() -> None:
    pauses = [pause(document(FIRST, hint=60), failures, EVEN) for failures in (1, 2, 3, 4, 10_000)]
    assert pauses == [FIRST_RETRY, FIRST_RETRY * 2, FIRST_RETRY * 4, timedelta(minutes=1), timedelta(minutes=1)]
    assert pause(None, 10_000, EVEN) == DEFAULT


def test_pauses_are_spread_around_their_length() -> None:
    assert pause(None, 0, 0.0) == DEFAULT * 0.9
    assert timedelta(0) < DEFAULT * 1.1 - pause(None, 0, 0.999) < timedelta(seconds=1)
