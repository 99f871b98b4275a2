"""Which keys are trusted, on record: at once, once a minute, and the last state in the end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from stepgrant_gateway.app.trusted import EVERY, MAX_BETWEEN, Owner, TrustedKeys
from stepgrant_gateway.core.events import EventType
from stepgrant_gateway.core.history import History, fold
from tests.kit.faulty_store import FaultyStore
from tests.kit.heart import Heart, heart

PARTNER: Owner = (EventType.BUNDLE_CHANGED, (("trust_domain", "partner.test"),))
OTHER: Owner = (EventType.BUNDLE_CHANGED, (("trust_domain", "other.test"),))
TEN = timedelta(seconds=10)


def keys(*names: str) -> frozenset[str]:
    return frozenset(names)


def trusted_by(built: Heart) -> TrustedKeys:
    return TrustedKeys(clock=built.clock, journal=built.journal)


async def passing(built: Heart, span: timedelta) -> None:
    """So much time goes by, and what was recorded before is durable."""
    await built.journal.record_end().durable()
    built.clock.advance(span)


async def changes(built: Heart) -> list[dict[str, Any]]:
    """The data of all such events, once they are durable."""
    return [dict(event.data) for event in await built.recorded() if event.type is EventType.BUNDLE_CHANGED]


async def test_the_first_event_has_all_keys_and_each_later_one_what_changed() -> None:
    async with heart() as built:
        trusted = trusted_by(built)
        trusted.note(PARTNER, keys("a", "b"), {"sequence": 7})
        trusted.note(PARTNER, keys("a", "b"), {"sequence": 8})
        await passing(built, EVERY)
        trusted.note(PARTNER, keys("b", "c"), {"sequence": 9})
        first, second = await changes(built)
        assert first == {
            "trust_domain": "partner.test", "sequence": 7, "keys": 2, "added": ["a", "b"], "removed": [], "between": [],
            "changes": 1,
        }  # fmt: skip
        assert (second["sequence"], second["added"], second["removed"]) == (9, ["c"], ["a"])


async def test_who_is_not_trusted_and_was_not_is_no_event_and_who_is_no_more_is_one() -> None:
    async with heart() as built:
        trusted = trusted_by(built)
        trusted.note(PARTNER, keys())
        assert await changes(built) == []
        trusted.note(PARTNER, keys("a"))
        await passing(built, EVERY)
        trusted.note(PARTNER, keys())
        [_, gone] = await changes(built)
        assert (gone["keys"], gone["removed"]) == (0, ["a"])


async def test_many_changes_are_one_event_a_minute_and_the_last_state_is_recorded_in_the_end() -> None:
    async with heart() as built:
        trusted = trusted_by(built)
        for number in range(60):
            trusted.note(PARTNER, keys("root", f"k{number:02}"), {"sequence": number})
            await passing(built, TEN)
        await passing(built, EVERY)
        events = await changes(built)
        # Ten minutes of a change every ten seconds: the first at once, then one a minute.
        assert len(events) == 11
        assert sum(event["changes"] for event in events) == 60
        assert events[1]["added"] == ["k05"]
        assert events[1]["removed"] == ["k00"]
        assert events[1]["between"] == [f"k{number:02}" for number in range(1, 5)]
        assert events[-1]["sequence"] == 59
        everything = {key for event in events for key in (*event["added"], *event["between"])}
        assert everything == {"root", *(f"k{number:02}" for number in range(60))}
        await passing(built, 10 * EVERY)
        assert len(await changes(built)) == 11


async def test_a_key_that_went_and_came_back_meanwhile_is_named() -> None:
    async with heart() as built:
        trusted = trusted_by(built)
        trusted.note(PARTNER, keys("a", "b"))
        trusted.note(PARTNER, keys("b"))
        trusted.note(PARTNER, keys("a", "b"))
        await passing(built, EVERY)
        [_, back] = await changes(built)
        assert (back["added"], back["removed"], back["between"], back["changes"]) == ([], [], ["a"], 2)


async def test_one_owner_s_changes_do_not_hold_up_another_s() -> None:
    async with heart() as built:
        trusted = trusted_by(built)
        trusted.note(PARTNER, keys("a"))
        trusted.note(PARTNER, keys("b"))
        trusted.note(OTHER, keys("c"))
        assert [event["trust_domain"] for event in await changes(built)] == ["partner.test", "other.test"]


async def test_an_event_has_its_bound_however_much_has_changed_and_says_how_often() -> None:
    async with heart() as built:
        trusted = trusted_by(built)
        for number in range(500):
            trusted.note(PARTNER, frozenset(f"x509-svid:{number:04}{place:060}" for place in range(128)))
        await passing(built, EVERY)
        [_, second] = await changes(built)
        assert (second["changes"], len(second["between"])) == (499, MAX_BETWEEN)
        assert len(second["added"]) == len(second["removed"]) == 128


async def test_while_the_ledger_is_away_changes_gather_and_one_event_says_them_when_it_is_back() -> None:
    store = FaultyStore()
    async with heart(store) as built:
        trusted = trusted_by(built)
        trusted.note(PARTNER, keys("k0"))
        await passing(built, EVERY)
        store.refuse = True
        for number in range(1, 30):
            trusted.note(PARTNER, keys(f"k{number}"))
            built.clock.advance(EVERY)
        store.refuse = False
        await built.while_time_passes(built.recorded())
        assert [event["changes"] for event in await changes(built)] == [1, 1]
        await passing(built, 2 * EVERY)
        assert [(event["changes"], event["added"]) for event in await changes(built)][2:] == [(28, ["k29"])]


async def test_what_waits_is_recorded_at_the_end_and_nothing_after_it() -> None:
    async with heart() as built:
        trusted = trusted_by(built)
        trusted.note(PARTNER, keys("a"))
        trusted.note(PARTNER, keys("b"))
        trusted.close()
        await passing(built, 2 * EVERY)
        trusted.note(PARTNER, keys("c"))
        trusted.close()
        assert [event["added"] for event in await changes(built)] == [["a"], ["b"]]


async def test_a_fold_passes_over_it_but_for_the_time() -> None:
    async with heart() as built:
        trusted_by(built).note(PARTNER, keys("a"))
        events = await built.recorded()
        assert fold(events) == History(latest=events[-1].at)
