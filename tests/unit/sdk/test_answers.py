"""Answers are values; what is secret in them stays out of `repr`."""

from __future__ import annotations

from stepgrant.answers import Challenge


def test_a_nonce_stands_in_no_repr():
    assert "secret" not in repr(Challenge(b"secret" * 6, "spiffe://a/b", 1))
