"""A hundred thousand declares of one identity, steps that nobody ends, and revocations that nobody takes (SM-11, SM-12)."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from datetime import timedelta
from functools import partial

import pytest

from stepgrant.errors import Denial, DenialCode
from stepgrant.grant import LEEWAY
from stepgrant.ids import ulid
from stepgrant.v1 import agent_pb2
from stepgrant_gateway.app.feed import MAX_BACKLOG, SubscriptionLostError
from stepgrant_gateway.app.open_tasks import MAX_LIVE_STEPS
from stepgrant_gateway.app.recording import LAST_RETRY
from stepgrant_gateway.core.boundary import Outcome, ReportStep, StepGranted
from stepgrant_gateway.core.events import EventType
from stepgrant_gateway.core.grants import STEP_MAX_AGE
from stepgrant_gateway.core.ledger import decode_event
from stepgrant_gateway.core.revocation import RevokedGrant
from stepgrant_gateway.rpc.caller import Caller
from stepgrant_gateway.rpc.limits import DECLARE_RATE
from stepgrant_gateway.rpc.opening import Speaker
from stepgrant_gateway.rpc.quotas import Errand, Quotas
from stepgrant_gateway.rpc.stream import TaskStream
from stepgrant_gateway.rpc.turns import Turns
from tests.kit.agent import declaring, opening
from tests.kit.desk import PARAMETERS
from tests.kit.face import GATEWAY_ID, INSTANCE, LIMITS
from tests.kit.faulty_store import FaultyStore
from tests.kit.heart import AGENT, ORDERS, Heart, heart
from tests.kit.loop import settled

NONCE = b"n" * 32
WINDOW = 32
"""Requests that an agent here has in flight: within what a stream may."""
SEARCH = ("orders.search", {"query": "shoes"})


class Talker:
    """One stream of one workload as the gateway reads it, without the wire."""

    def __init__(self, built: Heart, quotas: Quotas, workload: str) -> None:
        peer = built.peer(workload)
        patience = partial(quotas.wait, Errand.DECLARE, workload)
        speaker = Speaker(GATEWAY_ID, INSTANCE, LIMITS)
        self.stream = TaskStream(
            Caller(peer, {}), built.tasks, speaker, built.clock, NONCE, patience, Turns(built.clock)
        )
        self.built = built
        self.asked: asyncio.Queue[agent_pb2.AgentMessage] = asyncio.Queue()
        self.answers: Counter[str] = Counter()
        self.number = 1
        self.listening = asyncio.get_running_loop().create_task(self.stream.listen(self.asked.get))
        proven = opening(NONCE, certificate=peer.credential_sha256, parameters_json=PARAMETERS)
        self.asked.put_nowait(agent_pb2.AgentMessage(request=1, open=proven))

    async def hear(self) -> None:
        """One more answer."""
        message = await asyncio.wait_for(self.stream.outbox.next(), 5)
        assert message is not None
        what = message.WhichOneof("message")
        assert what != "denied" or message.denied.code != "overloaded" or message.denied.retry_after_ms > 0
        self.answers[message.denied.code if what == "denied" else str(what)] += bool(message.reply_to)

    def ask(self, count: int) -> None:
        """So many declares under fresh ids, on their way to the gateway."""
        for _ in range(count):
            self.number += 1
            step_id = ulid(self.built.clock.now(), self.number.to_bytes(10, "big"))
            self.asked.put_nowait(agent_pb2.AgentMessage(request=self.number, declare=declaring(step_id)))

    async def declare(self, count: int) -> None:
        """So many declares, a window of them at a time, each answered."""
        for begun in range(0, count, WINDOW):
            self.ask(min(WINDOW, count - begun))
            answered = self.answers.total()
            while self.answers.total() < answered + min(WINDOW, count - begun):
                await self.hear()


@pytest.mark.parametrize("flood", [6_400, pytest.param(100_000, marks=pytest.mark.slow)])
async def test_sm_11_a_flood_of_declares_costs_its_own_identity_and_nobody_else(flood: int) -> None:
    store = FaultyStore()
    async with heart(store) as built:
        quotas = Quotas(built.clock)
        flooding, quiet = Talker(built, quotas, AGENT), Talker(built, quotas, f"{AGENT}/2")
        for talker in (flooding, quiet):
            while not talker.answers["opened"]:
                await talker.hear()
        await flooding.declare(DECLARE_RATE.burst)
        flooding.ask(flood)
        for _ in range(10):
            await quiet.declare(1)
        for _ in range(2):
            await flooding.hear()

        looked_at = flooding.answers["granted"] + flooding.answers["limit_exceeded"]
        assert flooding.answers["granted"] == MAX_LIVE_STEPS
        assert looked_at == DECLARE_RATE.burst
        # It is told so once and again. From then on it is not even read, but as time passes.
        assert (flooding.answers["overloaded"], flooding.asked.qsize()) == (2, flood - 2)
        for passed in range(1, 10):
            built.clock.advance(timedelta(seconds=1) / DECLARE_RATE.per_second)
            await flooding.hear()
            await flooding.hear()
            assert flooding.answers["limit_exceeded"] == looked_at - MAX_LIVE_STEPS + passed
            assert flooding.answers["overloaded"] == 2 + passed
        assert quiet.answers["granted"] == quiet.answers.total() - 1 == 10
        assert len(store.inner.read(built.instance, 0, flood)) < DECLARE_RATE.burst + 100
        for talker in (flooding, quiet):
            talker.listening.cancel()


async def test_sm_11_steps_that_nobody_ends_are_ended_at_their_time_and_leave_nothing_behind() -> None:
    async with heart() as built:
        leases = [await built.open() for _ in range(16)]
        for lease in leases:
            await asyncio.gather(*(lease.declare(built.intent(*SEARCH)) for _ in range(MAX_LIVE_STEPS)))
        tasks = [built.state.tasks[lease.opened.task_id] for lease in leases]
        due = max(step.held.lifetime.expires_at for task in tasks for step in task.live.values())
        assert {len(task.live) for task in tasks} == {MAX_LIVE_STEPS}
        assert len(built.state.grants) == 16 * MAX_LIVE_STEPS

        built.clock.advance(due - built.clock.now())
        assert {len(task.live) for task in tasks} == {0}
        assert {step.code for task in tasks for step in task.shared.steps.values()} == {"expired"}
        built.clock.advance(LEEWAY)
        assert not built.state.grants


async def test_sm_11_a_step_that_is_renewed_for_ever_ends_at_its_greatest_age() -> None:
    async with heart() as built:
        lease = await built.open()
        first = await built.granted(lease, *SEARCH)
        begun, last = built.clock.now(), first.expires_at
        while isinstance(answer := await lease.renew(first.step_id), StepGranted):
            last = answer.expires_at
            built.clock.advance(timedelta(seconds=20))
        assert isinstance(answer, Denial)
        assert answer.code is DenialCode.STEP_ENDED
        assert last == begun + STEP_MAX_AGE[first.tier]
        built.clock.advance(timedelta(seconds=60))
        assert not built.state.tasks[lease.opened.task_id].live


async def test_sm_12_a_reader_that_never_takes_a_revocation_is_cut_off_and_begins_anew_with_all_of_them() -> None:
    async with heart() as built:
        stuck, reading = (built.feed.subscribe(ORDERS, [ORDERS]) for _ in range(2))
        events, now = aiter(reading), built.clock.now()
        dead = [ulid(now, number.to_bytes(10, "big")) for number in range(MAX_BACKLOG)]
        for grant_id in dead:
            await anext(events)
            built.feed.publish(RevokedGrant(grant_id, ORDERS, now + timedelta(seconds=30), "locked", now))

        with pytest.raises(SubscriptionLostError, match="too slow"):
            await anext(aiter(stuck))
        snapshot = (await anext(aiter(built.feed.subscribe(ORDERS, [ORDERS])))).item
        assert {item.grant_id for item in snapshot.revoked} == set(dead)
        assert not reading.over


async def test_sm_12_an_end_that_the_ledger_never_takes_is_in_force_alarmed_tried_again_and_never_dropped(
    caplog,
) -> None:
    caplog.set_level(logging.ERROR)
    store = FaultyStore()
    async with heart(store) as built:
        lease = await built.open()
        step = await built.granted(lease, *SEARCH)
        store.refuse = True
        tried = len(store.appends)
        lease.report(ReportStep(step.step_id, Outcome.FAILED, None, ""))
        assert built.feed.revoked(step.grant_id) is not None

        answer = await built.while_time_passes(lease.declare(built.intent(*SEARCH)))
        assert isinstance(answer, Denial)
        assert answer.code is DenialCode.UNRECORDED
        for _ in range(600):
            built.clock.advance(timedelta(seconds=1))
            await settled(lambda: built.journal._retry_timer is not None)
        attempts = len(store.appends) - tried
        assert 600 / LAST_RETRY.total_seconds() <= attempts < 2 * 600 / LAST_RETRY.total_seconds()
        assert "an append to the ledger failed" in caplog.text
        assert built.clock.now() > step.expires_at + LEEWAY

        store.refuse = False
        built.clock.advance(LAST_RETRY)
        await settled(lambda: built.journal._retry_timer is None and not built.journal._group)
        await built.granted(lease, *SEARCH)
        records = (decode_event(record.body) for record in store.inner.read(built.instance, 0, 1000))
        ended = [event.data["step"] for event in records if event.type is EventType.STEP_ENDED]
        assert ended.count(step.step_id) == 1
