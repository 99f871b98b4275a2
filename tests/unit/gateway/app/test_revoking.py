"""What is in force before every live step has been held against it: a sweep takes turns, and lets nothing through."""

import asyncio
import shutil
import threading
from pathlib import Path

from stepgrant.errors import Denial
from stepgrant.ids import ulid
from stepgrant.selector import Selector
from stepgrant_gateway.app.revoking import AT_ONCE
from stepgrant_gateway.core.boundary import StepGranted
from stepgrant_gateway.core.revocation import CatalogSlice, Lock, RevokedGrant
from stepgrant_gateway.policy.load import load_policy
from stepgrant_gateway.policy.sets import LoadedPolicySet
from tests.kit.faulty_store import FaultyStore
from tests.kit.heart import ORDERS, SUPPORT, Heart, heart

OPERATOR = "spiffe://dev.stepgrant.test/operator/jo"
SEARCH = {"query": "shoes"}
NO_SEARCH = '@id("no-search")\nforbid (principal, action == Action::"orders.search", resource);\n'


def without_search(directory: Path) -> Path:
    """The support desk's directory and one forbid; with no cases, which would fail."""
    shutil.copytree(SUPPORT, directory, ignore=shutil.ignore_patterns("tests"), dirs_exist_ok=True)
    (directory / "stop.cedar").write_text(NO_SEARCH)
    return directory


def strict(tmp_path: Path) -> LoadedPolicySet:
    return load_policy(without_search(tmp_path / "strict"))


def lock(built: Heart) -> Lock:
    """In force, and no live step has been held against it: as it is between two turns of its sweep."""
    now = built.clock.now()
    locked = Lock(ulid(now, built.entropy(10)), Selector(tool="orders.search"), "incident", now, OPERATOR)
    built.state.locks[locked.lock_id] = locked
    return locked


async def redeemed(built: Heart, grant_id: str) -> tuple[bool, str]:
    answer = await built.redeeming.redeem(ORDERS, ORDERS, grant_id, ulid(built.clock.now(), built.entropy(10)))
    return answer.accepted, answer.code


async def test_a_sweep_takes_turns_and_what_it_has_not_reached_is_used_no_more(tmp_path: Path) -> None:
    """INV-07: the set is in force at once, for however many live steps."""
    directory = Path(shutil.copytree(SUPPORT, tmp_path / "policy"))
    async with heart(directory=directory) as built:
        lease = await built.open()
        steps = [await built.granted(lease, "orders.search", SEARCH) for _ in range(AT_ONCE + 2)]
        events = aiter(built.feed.subscribe(ORDERS, [ORDERS]))
        await anext(events)
        shutil.rmtree(directory / "tests")
        without_search(directory)
        reloading = asyncio.ensure_future(built.operating.reload_policy(OPERATOR))
        assert (await anext(events)).item.code == "policy_changed"
        first, *_, last = (built.state.grants[step.grant_id] for step in steps)
        assert (first.live, last.live) == (False, True)
        assert await redeemed(built, steps[-1].grant_id) == (False, "revoked")
        assert last.code == "policy_changed"
        assert (await reloading).ended_steps == AT_ONCE + 1
        assert not built.state.tasks[lease.opened.task_id].live


async def test_what_an_earlier_set_decided_is_held_against_the_new_one_before_it_is_delivered(tmp_path: Path) -> None:
    """INV-07."""
    async with heart() as built:
        lease = await built.open()
        answer = lease.declare(built.intent("orders.search", SEARCH))
        built.state.policy = strict(tmp_path)
        denial = await answer
        assert isinstance(denial, Denial)
        assert built.pushed[-1].code == "policy_changed"
        [grant_id] = built.state.grants
        assert built.feed.revoked(grant_id) is not None


async def test_a_renewal_that_an_earlier_set_decided_is_held_against_the_new_one(tmp_path: Path) -> None:
    """INV-07."""
    store = FaultyStore()
    async with heart(store) as built:
        lease = await built.open()
        step = await built.granted(lease, "orders.search", SEARCH)
        store.block()
        renewing = asyncio.ensure_future(lease.renew(step.step_id))
        assert await asyncio.to_thread(store.entered.wait, 20)
        built.state.policy = strict(tmp_path)
        store.free.set()
        assert isinstance(await renewing, Denial)
        assert built.state.grants[step.grant_id].code == "policy_changed"


async def test_a_grant_that_waits_for_the_ledger_is_not_delivered_under_a_lock() -> None:
    """INV-07."""
    async with heart() as built:
        lease = await built.open()
        answer = lease.declare(built.intent("orders.search", SEARCH))
        lock(built)
        assert isinstance(await answer, Denial)
        assert (built.pushed[-1].code, built.pushed[-1].reason) == ("locked", "an operator has locked this: incident")


async def test_nothing_that_a_lock_matches_is_redeemed_before_its_sweep_has_come_there() -> None:
    """INV-07."""
    async with heart() as built:
        lease = await built.open()
        search = await built.granted(lease, "orders.search", SEARCH)
        other = await built.granted(lease, "orders.get", {"order_id": "ord_00000042"})
        lock(built)
        assert await redeemed(built, other.grant_id) == (True, "")
        assert await redeemed(built, search.grant_id) == (False, "revoked")
        ends = [event for event in await built.recorded() if event.data.get("code") == "locked"]
        assert [(event.data["step"], event.data["by"]) for event in ends] == [(search.step_id, OPERATOR)]


async def test_resources_hear_of_a_lock_before_all_that_it_ends_has_ended() -> None:
    """One event says it all, so none of those steps is in its way."""
    async with heart() as built:
        lease = await built.open()
        steps = [await built.granted(lease, "orders.search", SEARCH) for _ in range(3)]
        events = aiter(built.feed.subscribe(ORDERS, [ORDERS]))
        await anext(events)

        def live() -> int:
            return sum(built.state.grants[step.grant_id].live for step in steps)

        async def hear() -> tuple[type, int]:
            return type((await anext(events)).item), live()

        hearing = asyncio.ensure_future(hear())
        await asyncio.sleep(0)
        await built.operating.set_lock(Selector(tool="orders.search"), "incident", OPERATOR)
        assert await hearing == (Lock, len(steps))
        assert live() == 0


async def test_resources_hear_of_an_end_by_a_new_set_and_of_no_catalog_that_says_the_same(tmp_path: Path) -> None:
    directory = Path(shutil.copytree(SUPPORT, tmp_path / "policy"))
    async with heart(directory=directory) as built:
        step = await built.granted(await built.open(), "orders.search", SEARCH)
        events = aiter(built.feed.subscribe(ORDERS, [ORDERS]))
        await anext(events)
        shutil.rmtree(directory / "tests")
        without_search(directory)
        assert (await built.operating.reload_policy(OPERATOR)).activated
        told = await anext(events)
        assert isinstance(told.item, RevokedGrant)
        assert told.item.grant_id == step.grant_id
        catalog = directory / "catalog.yaml"
        catalog.write_text(catalog.read_text().replace("pg://orders/{order_id}", "pg://orders/o/{order_id}"))
        assert (await built.operating.reload_policy(OPERATOR)).activated
        described = await anext(events)
        assert isinstance(described.item, CatalogSlice)
        assert "pg://orders/o/{order_id}" in {tool.target_template for tool in described.item.tools}


async def test_a_set_is_asked_about_live_steps_before_it_is_active_and_not_on_the_loop(tmp_path: Path) -> None:
    """What it prepares at a first question is prepared then; nothing is decided by it."""
    async with heart() as built:
        step = await built.granted(await built.open(), "orders.search", SEARCH)
        asked: list[tuple[str, bool]] = []

        class Source:
            def load(self) -> LoadedPolicySet:
                policy = strict(tmp_path)
                evaluate = policy.evaluate

                def heard(question: object) -> object:
                    asked.append((question.call.tool.name, threading.current_thread() is threading.main_thread()))
                    if len(asked) == 1:
                        raise RuntimeError("a rehearsal that fails is nobody's end")
                    return evaluate(question)

                policy.evaluate = heard
                return policy

        built.operating._source = Source()
        assert (await built.operating.reload_policy(OPERATOR)).activated
        assert asked == [("orders.search", False), ("orders.search", True)]
        assert isinstance(step, StepGranted)
        assert built.state.grants[step.grant_id].code == "policy_changed"
