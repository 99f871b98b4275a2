"""What came out well is remembered for that very evidence, as long as all else is as it was."""

from __future__ import annotations

from stepgrant_gateway.identity.successes import Successes


def always(success: str) -> bool:
    return True


def test_a_success_is_of_its_own_evidence_only() -> None:
    successes: Successes[str] = Successes()
    successes.put(b"one", "first")
    assert successes.get(b"one", always) == "first"
    assert successes.get(b"two", always) is None


def test_one_that_is_not_good_any_more_is_forgotten() -> None:
    successes: Successes[str] = Successes()
    successes.put(b"one", "first")
    assert successes.get(b"one", lambda success: False) is None
    assert successes.get(b"one", always) is None


def test_the_least_used_goes_first() -> None:
    successes: Successes[str] = Successes(2)
    successes.put(b"one", "first")
    successes.put(b"two", "second")
    successes.get(b"one", always)
    successes.put(b"three", "third")
    assert [successes.get(key, always) for key in (b"one", b"two", b"three")] == ["first", None, "third"]
