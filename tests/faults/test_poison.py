"""DS-10: one thing that nothing can be made of. It is let be, the log says so, and everything else goes on."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest

from stepgrant_gateway.app.expiry import TRIES, TRY_AGAIN
from stepgrant_gateway.app.recording import Recorder
from stepgrant_gateway.core.errors import UnrecordedError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.ledger import Sealed, decode_event
from stepgrant_gateway.core.steps import StepState
from stepgrant_gateway.pulse import Pulse
from stepgrant_gateway.storage.inputs import DigestSealer
from stepgrant_gateway.storage.memory import MemoryLedger
from tests.kit.clock import START, ManualClock
from tests.kit.heart import CountingEntropy, heart

INSTANCE = "01KAJ7RM000000000000000000"
SECRET = "canary-in-a-poisoned-argument"


class PoisonedSealer:
    """Seals what it can; some input makes it fail as nobody foresaw."""

    def __init__(self) -> None:
        self._inner = DigestSealer(CountingEntropy())

    def seal(self, event: Event, instance_id: str, sequence: int) -> Sealed:
        if event.input and "poison" in event.input:
            raise RuntimeError(SECRET)
        return self._inner.seal(event, instance_id, sequence)


async def test_ds_10_an_intent_that_cannot_be_sealed_is_not_granted_and_the_ledger_takes_the_next(caplog):
    store = MemoryLedger()
    journal = Recorder(store, PoisonedSealer(), ManualClock(), INSTANCE)
    await journal.start()

    for _ in range(3):
        with pytest.raises(UnrecordedError):
            await journal.record(Event(EventType.STEP_GRANTED, START, {}, input={"poison": 1})).durable()
    await journal.record(Event(EventType.STEP_GRANTED, START, {"step": "1"}, input={"good": 1})).durable()
    await journal.close()

    said = [decode_event(record.body).data for record in store.read(INSTANCE, 1, 10)]
    assert [data.get("step") for data in said] == ["1", None]
    assert SECRET not in caplog.text
    assert "RuntimeError" in caplog.text


async def test_ds_10_a_step_whose_expiry_always_fails_keeps_no_other_from_expiring(caplog, monkeypatch):
    async with heart() as built:
        lease = await built.open()
        poisoned, good = [await built.granted(lease, "orders.get", {"order_id": "ord_00000042"}) for _ in range(2)]
        record_end = built.journal.record_end

        def poisoning(*events: Event) -> object:
            if any(event.data.get("step") == poisoned.step_id for event in events):
                raise RuntimeError("a poisoned step")
            return record_end(*events)

        monkeypatch.setattr(built.journal, "record_end", poisoning)
        with caplog.at_level(logging.ERROR):
            built.clock.advance(good.expires_at - built.clock.now() + TRY_AGAIN * TRIES)

        assert built.state.tasks[lease.opened.task_id].shared.steps[good.step_id].state is StepState.EXPIRED
        assert built.state.tasks
        assert caplog.text.count("a poisoned step") >= 1
        later = await built.granted(lease, "orders.get", {"order_id": "ord_00000042"})
        assert later.token


def test_ds_10_a_beat_that_always_fails_stops_neither_the_others_nor_itself():
    clock, beaten = ManualClock(), []

    def fail() -> None:
        beaten.append("failed")
        raise RuntimeError("a bug")

    pulse = Pulse(clock, fail, lambda: beaten.append("well"))
    pulse.start()
    clock.advance(timedelta(seconds=3))
    pulse.stop()

    assert beaten == ["failed", "well"] * 3
