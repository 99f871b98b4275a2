"""Logouts: which tasks they end, which tokens they keep out, and what is on record of them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from stepgrant.errors import Denial, DenialCode
from stepgrant_gateway.app.restoring import restore
from stepgrant_gateway.app.state import State
from stepgrant_gateway.core.boundary import TaskClosed
from stepgrant_gateway.core.history import fold
from stepgrant_gateway.core.logouts import Logout
from tests.kit.faulty_store import FaultyStore
from tests.kit.handed import branch, handed, write_handed
from tests.kit.heart import heart
from tests.kit.subjects import JO, MAX, subject_policy

ORDER = {"order_id": "ord_00000042"}


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return subject_policy(tmp_path / "policy")


async def test_a_logout_ends_the_tasks_of_its_session_at_once_and_keeps_its_tokens_out(policy: Path) -> None:
    async with heart(directory=policy) as built:
        at = int(built.clock.now().timestamp())
        ended, other = built.token(iat=at, sid="s-1"), built.token(iat=at, sid="s-2")
        lease = await built.open(subject_token=ended)
        step = await built.granted(lease, "orders.get", ORDER)
        kept = await built.granted(await built.open(subject_token=other), "orders.get", ORDER)
        logout = Logout(JO.issuer, JO.subject, "s-1", built.clock.now())
        assert built.logging_out.log_out(logout) == 1
        assert built.feed.revoked(step.grant_id).code == "logged_out"
        assert built.state.grants[kept.grant_id].live
        assert [item.code for item in built.pushed if isinstance(item, TaskClosed)] == ["logged_out"]
        again = await built.ask(subject_token=ended)
        assert isinstance(again, Denial)
        assert (again.code, again.reason) == (
            DenialCode.SUBJECT_INVALID,
            "the subject token is of a session that its issuer has ended.",
        )
        await built.open(subject_token=built.token(iat=at + 1, sid="s-3"))
        # After a restart, too.
        history = fold(await built.recorded())
        restored = State(built.state.policy)
        restore(restored, history, built.clock.now())
        assert restored.logouts.ended(built.tokens.tokens[ended])
        assert not restored.logouts.ended(built.tokens.tokens[other])


async def test_a_logout_of_a_user_ends_all_sessions_of_that_user_and_of_nobody_else(policy: Path) -> None:
    async with heart(directory=policy) as built:
        at = int(built.clock.now().timestamp())
        for of, sid in ((JO, "s-1"), (JO, "s-2"), (MAX, "s-3")):
            await built.open(subject_token=built.token(of, iat=at, sid=sid))
        nobody = await built.open()
        assert built.logging_out.log_out(Logout(JO.issuer, JO.subject, None, built.clock.now())) == 2
        assert [view.subject for view in built.operating.tasks()] == [str(MAX), ""]
        await built.granted(nobody, "orders.get", ORDER)
        # Said twice it ends nothing more, and another issuer's word about a user of that name is not about this one.
        assert built.logging_out.log_out(Logout(JO.issuer, JO.subject, None, built.clock.now())) == 0
        assert built.logging_out.log_out(Logout("https://other.test", MAX.subject, None, built.clock.now())) == 0


async def test_it_is_on_record_with_who_said_it_and_ends_name_the_issuer(policy: Path) -> None:
    async with heart(directory=policy) as built:
        at = int(built.clock.now().timestamp())
        await built.open(subject_token=built.token(iat=at, sid="s-1"))
        built.logging_out.log_out(Logout(JO.issuer, None, "s-1", built.clock.now()))
        *_, said, closed = await built.recorded()
        assert (said.type.value, said.data) == (
            "subject.logged_out",
            {"iss": JO.issuer, "sub": None, "sid": "s-1", "at": at},
        )
        assert (closed.type.value, closed.data["code"], closed.data["by"]) == ("task.closed", "logged_out", JO.issuer)


async def test_a_logout_does_not_wait_for_the_ledger_and_nothing_is_granted_until_it_is_on_record(policy: Path) -> None:
    store = FaultyStore()
    async with heart(store, directory=policy) as built:
        at = int(built.clock.now().timestamp())
        step = await built.granted(await built.open(subject_token=built.token(iat=at, sid="s-1")), "orders.get", ORDER)
        other = await built.open()
        store.refuse = True
        assert built.logging_out.log_out(Logout(JO.issuer, JO.subject, None, built.clock.now())) == 1
        assert built.known_dead(step.grant_id)
        denied = await built.while_time_passes(other.declare(built.intent("orders.get", ORDER)))
        assert isinstance(denied, Denial)
        assert denied.code is DenialCode.UNRECORDED
        store.refuse = False
        built.clock.advance(timedelta(seconds=5))
        events = await built.while_time_passes(built.recorded())
        assert "subject.logged_out" in [event.type.value for event in events]


async def test_branches_end_with_the_task_and_are_no_tasks_of_their_own(tmp_path: Path) -> None:
    async with heart(directory=write_handed(tmp_path)) as built:
        lease = await built.open(subject_token=built.token())
        mine = await branch(built, await handed(built, lease))
        step = await built.granted(mine, "orders.get", ORDER)
        logout = Logout(JO.issuer, JO.subject, None, built.clock.now())
        assert built.logging_out.log_out(logout) == 1
        assert built.known_dead(step.grant_id)
        assert built.state.tasks == {}
        assert {item.code for item in built.pushed if isinstance(item, TaskClosed)} == {"parent_ended", "logged_out"}
