"""DS-02, the client's side: who is told to come back comes back, not too soon, not together, and not for ever."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from stepgrant.errors import Denial, DenialCode, Denied, GatewayUnavailableError
from stepgrant.patience import LONGEST_WAIT, TRIES, Patience

SOON = timedelta(milliseconds=1)


def overloaded(retry_after: timedelta | None = SOON) -> Denial:
    return Denial(DenialCode.OVERLOADED, "too much to do", "wait", retry_after=retry_after)


@pytest.mark.parametrize("answer", [overloaded(), GatewayUnavailableError("too much to do", SOON)])
async def test_a_request_that_is_put_off_is_asked_again_a_bounded_number_of_times(answer):
    patience = Patience(lambda: 0.0)

    assert [await patience.waits(answer) for _ in range(TRIES + 1)] == [True] * (TRIES - 1) + [False] * 2


@pytest.mark.parametrize(
    "answer",
    [
        Denial(DenialCode.NO_PERMIT, "no", "ask for less", retry_after=SOON),
        Denial(DenialCode.BUDGET_EXHAUSTED, "no", "ask for less", retry_after=SOON),
        GatewayUnavailableError("nobody is there"),
        overloaded(None),
        overloaded(LONGEST_WAIT + SOON),
    ],
    ids=["denied", "no budget", "away", "without a time", "much later"],
)
async def test_what_waiting_does_not_help_is_not_asked_again(answer):
    assert not await Patience(lambda: 0.0).waits(answer)


async def test_the_gateways_word_is_kept_and_who_is_put_off_together_comes_back_apart(monkeypatch):
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    said = timedelta(milliseconds=100)
    for jitter in (0.0, 0.5, 1.0):
        await Patience(lambda jitter=jitter: jitter).waits(overloaded(said))

    assert min(slept) > said.total_seconds()
    assert len(set(slept)) == 3


async def test_ds_02_a_step_that_is_put_off_is_granted_when_there_is_room_again(gateway):
    gateway.deny("orders.get", DenialCode.OVERLOADED, retry_after=SOON)
    async with gateway.client() as client, client.task("Refund") as task:
        entering = asyncio.create_task(entered(task))
        await gateway.until(lambda: gateway.declared)
        gateway.grant("orders.get")
        await entering

    assert len({step.step_id for step in gateway.declared}) == 1


async def test_ds_02_a_step_that_is_put_off_for_ever_is_denied_after_a_few_tries(gateway):
    gateway.deny("orders.get", DenialCode.OVERLOADED, retry_after=SOON)
    async with gateway.client() as client, client.task("Refund") as task:
        with pytest.raises(Denied):
            await entered(task)

    assert len(gateway.declared) == TRIES


async def test_a_task_that_is_denied_is_never_asked_again(gateway):
    gateway.deny_open("Refund", Denial(DenialCode.NO_PERMIT, "no", "ask for less", retry_after=SOON))
    async with gateway.client() as client:
        with pytest.raises(Denied):
            await opened(client)

    assert len(gateway.opened) == 1


async def test_ds_02_a_task_that_is_put_off_is_opened_when_there_is_room_again(gateway):
    gateway.deny_open("Refund", overloaded())
    async with gateway.client() as client:
        opening = asyncio.create_task(opened(client))
        await gateway.until(lambda: gateway.opened)
        gateway.open("Refund")
        await opening


async def entered(task) -> None:
    async with task.step("orders.get"):
        pass


async def opened(client) -> None:
    async with client.task("Refund"):
        pass
