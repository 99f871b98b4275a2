"""A task is where steps are declared, and misuse is said before anything is sent."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest

from stepgrant.errors import MisuseError
from stepgrant.handed import HandOff
from stepgrant.tasks import json_object, opening_of


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"tool": "refund"}, r"server\.tool"),
        ({"tool": "orders.get", "purpose": "x" * 1025}, "shorten it"),
        ({"tool": "orders.get", "wanted_ttl": timedelta(0)}, "below a millisecond"),
    ],
)
async def test_a_step_that_cannot_be_is_misuse(gateway, options, why):
    async with gateway.client() as client, client.task("Refund") as task:
        with pytest.raises(MisuseError, match=why):
            task.step(**options)


async def test_a_wanted_lifetime_shortens_the_grant(gateway):
    async with gateway.client() as client, client.task("Refund") as task:
        async with task.step("orders.get", wanted_ttl=timedelta(seconds=5)) as step:
            assert step.grant.life == timedelta(seconds=5)
    assert gateway.declared[0].wanted_ttl == timedelta(seconds=5)


async def test_a_task_knows_its_id_its_end_and_whether_it_is_open(gateway):
    async with gateway.client() as client:
        async with client.task("Refund", {"customer": "jo@x.org"}) as task:
            assert task.open
            assert task.type == "Refund"
            assert task.expires_at.tzinfo is not None
        assert not task.open
    assert task.id == gateway.opened[0].task_id
    assert "jo@x.org" not in repr(task)


def test_members_are_sent_as_canonical_json():
    assert json_object({"b": 1.0, "a": [None, True]}, 100, "x") == '{"a":[null,true],"b":1}'


async def test_a_forked_child_is_told_to_open_its_own_task_and_does_not_wait_for_ever(gateway, monkeypatch):
    """The loop that serves the task does not run there, so no answer would ever come."""
    async with gateway.client() as client, client.task("Refund") as task:
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: 1)
            with pytest.raises(MisuseError, match="another process than its task was opened in"):
                task.step("orders.get")
            assert client.loop is None
            with pytest.raises(MisuseError, match="another event loop or process"):
                async with client.task("Refund"):
                    pytest.fail("the task opens")


@pytest.mark.parametrize(
    ("parameters", "purpose", "token", "why"),
    [
        ({"order_id": "o"}, "", None, "says parameters and purpose itself"),
        ({}, "p", None, "says parameters and purpose itself"),
        ({}, "", "a.b.c", "the user of a branch is that of its task"),
    ],
)
def test_a_branch_is_opened_with_the_hand_off_and_nothing_beside_it(parameters, purpose, token, why):
    hand_off = HandOff("01KAJ7RM0000000000000HAND0", "Refund", {"order_id": "o"}, "pay it", b"t" * 32)
    opening = opening_of(hand_off, {}, "", None)
    assert (opening.parameters_json, opening.purpose, opening.hand_off, opening.ticket) == (
        '{"order_id":"o"}', "pay it", b"t" * 32, b"",
    )  # fmt: skip
    with pytest.raises(MisuseError, match=why):
        opening_of(hand_off, parameters, purpose, token)
