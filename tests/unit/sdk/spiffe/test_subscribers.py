"""Who hears of changes."""

from __future__ import annotations

from stepgrant.spiffe.subscribers import Subscribers


def test_subscribers_hear_until_they_leave_and_one_that_fails_keeps_nobody_from_it() -> None:
    heard: list[str] = []

    def fails() -> None:
        raise RuntimeError("broken")

    subscribers = Subscribers()
    subscribers.add(fails)
    leave = subscribers.add(lambda: heard.append("a"))
    subscribers.add(lambda: heard.append("b"))
    subscribers.notify()
    leave()
    leave()
    subscribers.notify()
    assert heard == ["a", "b", "b"]


def test_a_subscriber_may_leave_while_it_hears() -> None:
    subscribers = Subscribers()
    heard: list[int] = []

    def once() -> None:
        heard.append(1)
        leave()

    leave = subscribers.add(once)
    subscribers.notify()
    subscribers.notify()
    assert heard == [1]
