"""SM-02: uses, renewals, reports, closes, locks, lost streams and time at once, and some serial order explains all answers.

What runs between two awaits runs alone, so an interleaving is the order in which requests begin and in which the ledger
takes its groups. Both are hypothesis's choice here: the store takes a group only when the schedule says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stepgrant.errors import Denial, TaskClosedError
from stepgrant.ids import ulid
from stepgrant.selector import Selector
from stepgrant_gateway.app.leasing import TaskLease
from stepgrant_gateway.core.boundary import Outcome, ReportStep
from stepgrant_gateway.core.errors import UnrecordedError
from tests.kit.heart import OPERATOR, ORDERS, Heart, heart
from tests.kit.loop import settled
from tests.kit.stepped_store import SteppedStore

ROUNDS = 10
"""Turns of the loop after which whoever can go on has gone on: the longest chain of awaits has five links."""
DEEDS = ("use", "use", "use again", "use old", "renew", "report", "close", "lost", "lock", "commit", "commit", "tick", "run out")  # fmt: skip
ENDS = {("report", "settled"), ("close", "closed"), ("lost", ""), ("lock", ""), ("tick", "expired")}
"""Answers after which a step is over and somebody knows."""
TOOLS = {"orders.get": {"order_id": "ord_00000042"}, "orders.search": {"query": "shoes"}}
"""One with a single use, one with any number."""


@dataclass(slots=True)
class Deed:
    """What somebody did, from when to when in the order of all beginnings and answers, and what came of it."""

    kind: str
    begun: int
    grant: str = ""
    redemption: str = ""
    answer: str | None = None
    answered: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Model:
    """A step as a single sheet of paper: all there is to know, one thing at a time."""

    grant: str
    uses: int | None
    ended: bool = False
    taken: frozenset[str] = frozenset()

    def after(self, deed: Deed, rivals: int) -> Model | None:
        """The step after the deed, or None if its answer cannot be at this point. `rivals`: uses that overlap with it."""
        match deed.kind, deed.answer:
            case "use", "taken" if deed.redemption in self.taken:
                return self
            case "use", "taken":
                if self.ended or self.uses == 0 or deed.grant != self.grant:
                    return None
                left = None if self.uses is None else self.uses - 1
                return replace(self, uses=left, taken=self.taken | {deed.redemption})
            case ("use", "revoked" | "expired" | "unknown_grant") | ("renew", "step_ended" | "locked" | "closed"):
                return self if self.ended else None
            case "use", "superseded":
                return self if not self.ended and deed.grant != self.grant else None
            case ("use", "used_up") | ("renew", "uses_exhausted"):
                # One that was taken and could not be recorded in time was not taken: who came meanwhile was refused too early.
                return self if self.uses is not None and not self.ended and self.uses <= rivals else None
            case "renew", str(answer) if answer.startswith("granted "):
                return None if self.ended else replace(self, grant=answer.removeprefix("granted "))
            case _, "unrecorded" | "limit_exceeded" | "step_expiring":
                return self
            case "report", "late" | "closed":
                return self if self.ended else None
            case ("report", "settled") | ("tick", "expired"):
                return None if self.ended else replace(self, ended=True)
            case "tick", "":
                return self
            case "close" | "lost" | "lock", _:
                return replace(self, ended=True)
            case unexplained:
                raise AssertionError(unexplained)


def explained(deeds: Sequence[Deed], start: Model) -> bool:
    """True if the deeds, each at one moment between its beginning and its answer, can have happened one after another."""
    seen: set[tuple[frozenset[int], Model]] = set()

    def from_here(done: frozenset[int], model: Model) -> bool:
        if len(done) == len(deeds):
            return True
        if (done, model) in seen:
            return False
        seen.add((done, model))
        left = [index for index in range(len(deeds)) if index not in done]
        first_answer = min(deeds[index].answered for index in left)
        for index in left:
            deed = deeds[index]
            if deed.begun > first_answer:
                continue
            rivals = sum(other is not deed and overlap(other, deed) for other in deeds if other.kind == "use")
            after = model.after(deed, rivals)
            if after is not None and from_here(done | {index}, after):
                return True
        return False

    return from_here(frozenset(), start)


def too_late(deeds: Sequence[Deed]) -> list[Deed]:
    """Uses that were said to be taken after somebody had been told that the step is over."""
    over = min((deed.answered for deed in deeds if (deed.kind, deed.answer) in ENDS), default=1_000_000)
    first = {deed.redemption: deed for deed in sorted(deeds, key=lambda deed: -deed.answered) if deed.answer == "taken"}
    return [deed for deed in first.values() if deed.answered > over]


def overlap(one: Deed, other: Deed) -> bool:
    """True if neither was answered before the other began."""
    return one.begun < other.answered and other.begun < one.answered


class Play:
    """One step of one task, and everybody who wants something of it."""

    def __init__(self, built: Heart, store: SteppedStore, lease: TaskLease, step_id: str, grant_id: str) -> None:
        self.built, self.store, self.lease, self.step_id = built, store, lease, step_id
        self.grants = [grant_id]
        self.deeds: list[Deed] = []
        self.moment = 0
        self.asking: list[asyncio.Task[None]] = []

    async def act(self, what: str) -> None:
        """One deed of the schedule, as far as it goes at once."""
        step = self.built.state.grants.get(self.grants[0])
        match what:
            case "use" | "use old":
                self.begin("use", self.redeem, self.grants[-1 if what == "use" else 0], self.new_id())
            case "use again" if [deed for deed in self.deeds if deed.kind == "use"]:
                last = [deed for deed in self.deeds if deed.kind == "use"][-1]
                self.begin("use", self.redeem, last.grant, last.redemption)
            case "renew" | "report" | "close" | "lock":
                self.begin(what, getattr(self, what))
            case "lost":
                deed = self.note("lost")
                self.lease.lost("stream_lost", "the stream ended.")
                self.told(deed, "")
            case "commit":
                await self.commit()
            case "tick" | "run out":
                deed, live = self.note("tick"), step is not None and step.live
                self.built.clock.advance(timedelta(seconds=1 if what == "tick" else 61))
                self.told(deed, "expired" if live and step is not None and step.code == "expired" else "")
        await self.go_on()

    def new_id(self) -> str:
        return ulid(self.built.clock.now(), self.built.entropy(10))

    def note(self, kind: str, grant: str = "", redemption: str = "") -> Deed:
        self.moment += 1
        deed = Deed(kind, self.moment, grant, redemption)
        self.deeds.append(deed)
        return deed

    def told(self, deed: Deed, answer: str) -> None:
        self.moment += 1
        deed.answer, deed.answered = answer, self.moment
        if deed.kind in {"close", "lost", "lock"} or answer in {"settled", "late", "closed", "step_ended"}:
            for grant in self.grants:
                step = self.built.state.grants.get(grant)
                gone = step is None or step.code == "expired"
                assert gone or self.built.known_dead(grant), "ended, and no resource was told"

    def begin(self, kind: str, work: Any, *arguments: str) -> None:
        deed = self.note(kind, *arguments)
        self.asking.append(asyncio.get_running_loop().create_task(self.finish(deed, work(*arguments))))

    async def finish(self, deed: Deed, work: Coroutine[Any, Any, str]) -> None:
        try:
            answer = await work
        except UnrecordedError:
            answer = "unrecorded"
        except TaskClosedError:
            answer = "closed"
        self.told(deed, answer)

    async def redeem(self, grant: str, redemption: str) -> str:
        redeemed = await self.built.redeeming.redeem(ORDERS, ORDERS, grant, redemption)
        return "taken" if redeemed.accepted else redeemed.code

    async def renew(self) -> str:
        answer = await self.lease.renew(self.step_id)
        if isinstance(answer, Denial):
            return answer.code.value
        self.grants.append(answer.grant_id)
        return f"granted {answer.grant_id}"

    async def report(self) -> str:
        settled = self.lease.report(ReportStep(self.step_id, Outcome.COMPLETED, None, ""))
        return "late" if settled.late else "settled"

    async def close(self) -> str:
        return self.lease.close(Outcome.COMPLETED).code

    async def lock(self) -> str:
        await self.built.operating.set_lock(Selector(tool="orders.*"), "a race", OPERATOR)
        return ""

    async def commit(self) -> None:
        """The ledger takes what is before it, if anything is."""
        if self.built.journal._group:
            before = self.built.journal.position
            self.store.permits.release()
            await settled(lambda: self.built.journal.position > before)

    async def go_on(self) -> None:
        for _ in range(ROUNDS):
            await asyncio.sleep(0)

    async def end(self) -> None:
        """Everybody gets an answer."""
        while not all(task.done() for task in self.asking) or self.built.journal._group:
            await self.commit()
            await self.go_on()
        for task in self.asking:
            task.result()


async def play(tool: str, schedule: Sequence[str]) -> None:
    store = SteppedStore()
    async with heart(store) as built:
        lease = await built.open()
        first = await built.granted(lease, tool, TOOLS[tool])
        store.holding = True
        scene = Play(built, store, lease, first.step_id, first.grant_id)
        for what in schedule:
            await scene.act(what)
        await scene.end()
        store.holding = False
        assert explained(scene.deeds, Model(first.grant_id, first.uses)), scene.deeds
        assert too_late(scene.deeds) == []


schedules = st.lists(st.sampled_from(DEEDS), min_size=2, max_size=14)


@given(st.sampled_from(sorted(TOOLS)), schedules)
@example("orders.get", ["use", "report", "commit"])
@example("orders.search", ["renew", "use old", "commit", "use", "lock", "commit", "commit"])
@settings(max_examples=100, deadline=None)
def test_sm_02_some_serial_order_explains_every_answer(tool: str, schedule: list[str]) -> None:
    asyncio.run(play(tool, schedule))


@pytest.mark.slow
@given(st.sampled_from(sorted(TOOLS)), schedules)
@settings(max_examples=1_000, deadline=None)
def test_sm_02_some_serial_order_explains_every_answer_in_a_thousand_schedules(tool: str, schedule: list[str]) -> None:
    asyncio.run(play(tool, schedule))


def test_sm_02_a_use_that_succeeds_after_an_end_was_answered_is_not_explained() -> None:
    """The checker itself can say no."""
    late = [Deed("report", 1, answer="settled", answered=2), Deed("use", 3, "g", "r", "taken", 4)]
    at_once = [Deed("report", 1, answer="settled", answered=4), Deed("use", 2, "g", "r", "taken", 3)]
    twice = [Deed("use", 1, "g", "r", "taken", 3), Deed("use", 2, "g", "s", "taken", 4)]
    start = Model("g", 1)
    assert [explained(deeds, start) for deeds in (late, at_once, twice)] == [False, True, False]
    assert [len(too_late(deeds)) for deeds in (late, at_once, twice)] == [1, 0, 0]
