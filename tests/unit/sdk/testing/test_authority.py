"""The throw-away trust domain issues what real verification accepts."""

from __future__ import annotations

import pytest

from stepgrant.errors import IdentityUnavailableError
from stepgrant.testing import ScriptedIdentity, ThrowAwayAuthority


def test_an_issued_identity_verifies_and_hides_its_key():
    snapshot = ThrowAwayAuthority("test.example").snapshot("agent/a")
    assert str(snapshot.spiffe_id) == "spiffe://test.example/agent/a"
    assert "PRIVATE" not in repr(snapshot)


def test_a_scripted_identity_is_what_the_test_says():
    authority = ThrowAwayAuthority("test.example")
    heard = []
    identity = ScriptedIdentity(authority.snapshot("a"))
    identity.subscribe(lambda: heard.append(1))
    identity.become(authority.snapshot("b"))
    assert identity.current().spiffe_id.path == "/b"
    identity.become(None)
    with pytest.raises(IdentityUnavailableError):
        identity.current()
    assert heard == [1, 1]
