"""Ways for a step to end, each measured from its own beginning: somebody asks for it, or the agent's process dies."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from children import Child
from rig import DOMAIN, SUPPORT, Rig
from streams import GatewaySteps, declaration

from stepgrant.v1 import operator_pb2, types_pb2

FORBID: Final = """@id("measured") @reason("Measured.")
forbid (principal, action == Action::"orders.search", resource) when { context.args.query == "shoes" };
"""
OPERATOR_SECONDS: Final = 0.05
"""After a lock: operators, too, may ask only so often."""
LOCKED_IN_TURN: Final = 24
"""Agents, at least, that are locked one after the other. Grants say in whole seconds when they were issued, so that a lock
refuses what its agent gets within the same second, also once it is lifted: no agent's turn may come again as soon as that."""


@dataclass(frozen=True, slots=True)
class Held:
    """A live grant as a resource is shown it."""

    token: str
    workload: str
    certificate: str


class Ending(Protocol):
    """One way for a step to end; used for one step after the other."""

    async def hold(self) -> Held:
        """A fresh grant."""

    def begin(self) -> None:
        """Brings about its end."""

    async def begun(self) -> int:
        """The monotonic nanosecond that the end began at; clears up. Called after the refusal."""


class Agent:
    """Declares searches."""

    def __init__(self, rig: Rig, name: str, steps: GatewaySteps) -> None:
        self.name = name
        self.workload = f"{DOMAIN}/{name}"
        self.steps = steps
        self.step_id = ""
        """The newest step."""
        self._certificate = rig.identity_of(name).current().leaf_sha256.hex()

    async def hold(self) -> Held:
        """A fresh grant."""
        declare = declaration()
        answer = await self.steps.declare(declare)
        if answer.WhichOneof("message") != "granted":
            raise RuntimeError(f"not granted: {answer}")
        self.step_id = declare.step_id
        return Held(answer.granted.grant, self.workload, self._certificate)


class Question(Protocol):
    """What brings an end about when it is asked."""

    async def ask(self, agent: Agent) -> Any:
        """Ends the newest step of the agent; the answer."""

    async def clear(self, answer: Any) -> None:
        """Has everything as it was before that answer."""


class Asked:
    """An end that somebody asks for, of a step of one agent after the other; it begins when the question is sent."""

    def __init__(self, agents: Sequence[Agent], question: Question) -> None:
        self._agents = itertools.cycle(agents)
        self._question = question
        self._agent = agents[0]
        self._asked: asyncio.Task[Any] | None = None
        self._at = 0

    async def hold(self) -> Held:
        """See `Ending`."""
        self._agent = next(self._agents)
        return await self._agent.hold()

    def begin(self) -> None:
        """See `Ending`."""
        self._asked = asyncio.create_task(self._ask())

    async def begun(self) -> int:
        """See `Ending`."""
        assert self._asked is not None
        await self._question.clear(await self._asked)
        return self._at

    async def _ask(self) -> Any:
        self._at = time.monotonic_ns()
        return await self._question.ask(self._agent)


class Report:
    """The agent reports its step."""

    async def ask(self, agent: Agent) -> Any:
        """See `Question`."""
        return await agent.steps.report(agent.step_id)

    async def clear(self, answer: Any) -> None:
        """See `Question`."""


class Lock:
    """An operator locks the tool for the agent, and lifts that afterwards."""

    def __init__(self, operator: Any) -> None:
        self._operator = operator

    async def ask(self, agent: Agent) -> Any:
        """See `Question`."""
        selector = types_pb2.Selector(tool="orders.search", workload=agent.workload)
        return await self._operator.SetLock(operator_pb2.SetLockRequest(selector=selector, reason="measured"))

    async def clear(self, answer: Any) -> None:
        """See `Question`."""
        request = operator_pb2.LiftLockRequest(lock_id=answer.lock.lock_id, reason="measured")
        await self._operator.LiftLock(request)
        await asyncio.sleep(OPERATOR_SECONDS)


class Reload:
    """A policy set without this search is activated, and afterwards the one before."""

    def __init__(self, operator: Any, forbid: Path) -> None:
        """`forbid`: the file that makes the difference."""
        self._operator = operator
        self._forbid = forbid

    async def ask(self, agent: Agent) -> Any:  # noqa: ARG002 - everybody's search is over
        """See `Question`."""
        self._forbid.write_text(FORBID)
        return await self._reload()

    async def clear(self, answer: Any) -> None:  # noqa: ARG002 - whatever it was
        """See `Question`."""
        self._forbid.unlink()
        await self._reload()

    async def _reload(self) -> Any:
        answer = await self._operator.ReloadPolicy(operator_pb2.ReloadPolicyRequest())
        if not answer.activated:
            raise RuntimeError(f"the policy was refused: {answer.findings}")
        return answer


class ByKill:
    """The agent's process dies."""

    def __init__(self, victim: Child) -> None:
        self._victim = victim
        self._at = 0

    async def hold(self) -> Held:
        """See `Ending`."""
        return Held(self._victim.said["token"], f"{DOMAIN}/{SUPPORT}", self._victim.said["certificate"])

    def begin(self) -> None:
        """See `Ending`."""
        self._at = time.monotonic_ns()
        self._victim.kill()

    async def begun(self) -> int:
        """See `Ending`."""
        return self._at
