"""Keys that an issuer takes back: the tasks of users whom they had proven end at once, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepgrant_gateway.app.disowning import Disowning
from stepgrant_gateway.core.boundary import TaskClosed
from tests.kit.handed import branch, handed, write_handed
from tests.kit.heart import heart
from tests.kit.subjects import JO, KEY, MAX, subject_policy

ORDER = {"order_id": "ord_00000042"}
NEXT = b"two".rjust(32)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return subject_policy(tmp_path / "policy")


async def test_inv_07_tasks_of_users_whose_token_a_key_signed_that_has_gone_end_with_it(policy: Path) -> None:
    async with heart(directory=policy) as built:
        built.tokens.keys |= {NEXT}
        gone = await built.granted(await built.open(subject_token=built.token()), "orders.get", ORDER)
        stays = [
            await built.granted(await built.open(subject_token=token), "orders.get", ORDER)
            for token in (built.token(MAX, key=NEXT), built.token(JO, key=NEXT), "")
        ]
        assert built.disowning.look() == 0
        built.tokens.keys -= {KEY}
        assert built.disowning.look() == 1
        assert built.feed.revoked(gone.grant_id).code == "subject_lost"
        assert all(built.state.grants[step.grant_id].live for step in stays)
        assert [item.code for item in built.pushed if isinstance(item, TaskClosed)] == ["subject_lost"]
        [closed] = [event for event in await built.recorded() if event.type.value == "task.closed"]
        assert (closed.data["code"], closed.data["by"]) == ("subject_lost", "gateway")
        assert built.disowning.look() == 0


async def test_a_task_that_was_taken_up_with_a_token_by_the_next_key_goes_on(policy: Path) -> None:
    async with heart(directory=policy) as built:
        built.tokens.keys |= {NEXT}
        lease = await built.open(subject_token=built.token())
        step = await built.granted(lease, "orders.get", ORDER)
        await built.taken(lease.resume_token(), subject_token=built.token(key=NEXT))
        built.tokens.keys -= {KEY}
        assert built.disowning.look() == 0
        assert built.state.grants[step.grant_id].live


async def test_where_no_subject_is_taken_nothing_ends() -> None:
    async with heart() as built:
        await built.open()
        assert Disowning(state=built.state, endings=built.endings, prover=None).look() == 0
        assert len(built.state.tasks) == 1


async def test_branches_end_with_the_task_and_are_no_tasks_of_their_own(tmp_path: Path) -> None:
    async with heart(directory=write_handed(tmp_path)) as built:
        lease = await built.open(subject_token=built.token())
        mine = await branch(built, await handed(built, lease))
        step = await built.granted(mine, "orders.get", ORDER)
        built.tokens.keys -= {KEY}
        assert built.disowning.look() == 1
        assert built.known_dead(step.grant_id)
        assert built.state.tasks == {}
        assert {item.code for item in built.pushed if isinstance(item, TaskClosed)} == {"parent_ended", "subject_lost"}
