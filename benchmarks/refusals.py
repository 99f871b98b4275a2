"""From the end of a step to its first refusal at a resource: by report, lock, policy change, and the agent's death.

Both moments are of the machine's monotonic clock. Twice over: until the verifier in the resource's process refuses, which
looks over and over, and until a caller's own gRPC call comes back refused, the call included.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import grpc
from children import Child
from effort import Effort
from figures import Findings
from rig import DOMAIN, GATEWAY, OPERATOR, ORDERS, SUPPORT, Rig, channel, running
from streams import ARGUMENTS, PARAMETERS, GatewaySteps, declaration, task
from whole_steps import OrdersStub, SearchRequest

from stepgrant.grant import GRANT_METADATA_KEY, REFUSAL_METADATA_KEY
from stepgrant.v1 import operator_pb2, operator_pb2_grpc, types_pb2
from stepgrant_gateway.app.auditing import read_all
from stepgrant_gateway.core.events import EventType
from stepgrant_gateway.storage.sqlite import SqliteLedgerReader

FORBID: Final = """@id("measured") @reason("Measured.")
forbid (principal, action == Action::"orders.search", resource) when { context.args.query == "shoes" };
"""
REFUSED: Final = frozenset({"revoked", "locked"})
"""With any other code the grant was refused for a reason that is not its end."""
VICTIMS_AT_ONCE: Final = 5
AGENTS: Final = tuple(f"{SUPPORT}/{number}" for number in range(24))
OPERATOR_SECONDS: Final = 0.05
"""After a lock: operators, too, may ask only so often. And grants say in whole seconds when they were issued, so that a lock
refuses what its agent gets within the same second, also once it is lifted: no agent's turn comes again as soon as that."""


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


class Look(Protocol):
    """Looks on until a grant is refused."""

    async def accepted(self, held: Held) -> None:
        """Begins, and returns when the grant was accepted once."""

    async def refused(self) -> int:
        """The monotonic nanosecond of the first refusal.

        Raises:
            RuntimeError: the grant was refused, but not for its end.
        """


class VerifierLook:
    """The verifier in the resource's process."""

    def __init__(self, resource: Child) -> None:
        self._resource = resource

    async def accepted(self, held: Held) -> None:
        """See `Look`."""
        shown = {**asdict(held), "arguments": json.loads(ARGUMENTS)}
        await self._resource.ask({"watch": shown})

    async def refused(self) -> int:
        """See `Look`."""
        said = await self._resource.hear()
        return _moment(said["refused_ns"], said["code"])


class CallLook:
    """Calls from this process: whoever has the grant and its certificate."""

    def __init__(self, channels: Mapping[str, grpc.aio.Channel]) -> None:
        """`channels`: to the resource, by the workload that they show."""
        self._calls = {workload: OrdersStub(to_orders).Search for workload, to_orders in channels.items()}
        self._request = SearchRequest(**json.loads(ARGUMENTS))
        self._calling: asyncio.Task[int] | None = None

    async def accepted(self, held: Held) -> None:
        """See `Look`."""
        metadata = ((GRANT_METADATA_KEY, held.token),)
        call = self._calls[held.workload]
        await call(self._request, metadata=metadata)
        self._calling = asyncio.create_task(self._until_refused(call, metadata))

    async def refused(self) -> int:
        """See `Look`."""
        assert self._calling is not None
        return await self._calling

    async def _until_refused(self, call: Any, metadata: Any) -> int:
        while True:
            try:
                await call(self._request, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                at = time.monotonic_ns()
                codes = [value for key, value in error.trailing_metadata() or () if key == REFUSAL_METADATA_KEY]
                return _moment(at, str(codes))


def _moment(at: int, code: str) -> int:
    if not any(expected in code for expected in REFUSED):
        raise RuntimeError(f"refused for something else: {code}")
    return at


async def measure(directory: Path, effort: Effort) -> Findings:
    """Everything of this page."""
    found = Findings()
    async with running(directory, agents=AGENTS) as rig, rig.guarded() as resource, AsyncExitStack() as stack:
        agents = [Agent(rig, name, await stack.enter_async_context(task(rig, identity=name))) for name in AGENTS]
        at = resource.said["listening"]
        channels = {
            agent.workload: await stack.enter_async_context(channel(rig, at, ORDERS, identity=agent.name))
            for agent in agents
        }
        to_operator = await stack.enter_async_context(channel(rig, rig.gateway, GATEWAY, identity=OPERATOR))
        operator = operator_pb2_grpc.OperatorStub(to_operator)
        looks = {"": VerifierLook(resource), "call_": CallLook(channels)}
        for prefix, look in looks.items():
            for name, ending in (("report", ByReport(agents)), ("lock", ByLock(agents, operator))):
                pairs = await ended(look, ending, effort.ends)
                found.spans[f"{prefix}refused_after_{name}"] = [_seconds(begun, refused) for begun, refused in pairs]
        await _policies(
            rig, ByPolicy(agents, operator, rig.directory / "policy" / "measured.cedar"), looks, effort, found
        )
        pairs = await killed(rig, looks[""], effort.hard_ends)
        found.spans["refused_after_kill"] = [_seconds(begun, refused) for begun, refused in pairs]
    return found


async def _policies(rig: Rig, ending: ByPolicy, looks: Mapping[str, Look], effort: Effort, found: Findings) -> None:
    """A policy change counts from the activation on record: when the new set was loaded and had passed its own tests."""
    ledger = rig.directory / "ledger.db"
    wall = time.time_ns() - time.monotonic_ns()
    before = len(activations(ledger))
    pairs = {prefix: await ended(look, ending, effort.hard_ends) for prefix, look in looks.items()}
    # Each second activation brings the former set back.
    moments = iter([at - wall for at in activations(ledger)[before::2]])
    loads = []
    for prefix, of_look in pairs.items():
        activated = [next(moments) for _ in of_look]
        found.spans[f"{prefix}refused_after_policy"] = [
            _seconds(at, refused) for at, (_, refused) in zip(activated, of_look, strict=True)
        ]
        loads += [_seconds(asked, at) for at, (asked, _) in zip(activated, of_look, strict=True)]
    found.spans["policy_loaded"] = loads


def activations(ledger: Path) -> list[int]:
    """The wall-clock nanosecond of each activation of a policy set."""
    with closing(SqliteLedgerReader(ledger)) as reader:
        events = [stored.event for stored in read_all(reader)]
    return [int(event.at.timestamp() * 1e6) * 1000 for event in events if event.type is EventType.POLICY_ACTIVATED]


async def ended(look: Look, ending: Ending, samples: int) -> list[tuple[int, int]]:
    """Begin and refusal of each end, in monotonic nanoseconds."""
    pairs = []
    for _ in range(samples):
        await look.accepted(await ending.hold())
        ending.begin()
        refused = await look.refused()
        pairs.append((await ending.begun(), refused))
    return pairs


async def killed(rig: Rig, look: Look, samples: int) -> list[tuple[int, int]]:
    """As `ended`, by SIGKILL of the agent's process. Agents start several at once, soon before: grants are short-lived."""
    pairs: list[tuple[int, int]] = []
    program = Path(__file__).with_name("victim.py")
    while len(pairs) < samples:
        async with AsyncExitStack() as stack:
            starting = (
                stack.enter_async_context(rig.child(f"victim{number}", program, PARAMETERS, ARGUMENTS))
                for number in range(min(VICTIMS_AT_ONCE, samples - len(pairs)))
            )
            for victim in await asyncio.gather(*starting):
                pairs += await ended(look, ByKill(victim), 1)
    return pairs


def _seconds(begun: int, refused: int) -> float:
    return (refused - begun) / 1e9


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


class _Asked:
    """An end that somebody asks for, of a step of one agent after the other; it begins when the question is sent."""

    def __init__(self, agents: Sequence[Agent]) -> None:
        self._agents = itertools.cycle(agents)
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
        await self._clear(await self._asked)
        return self._at

    async def _ask(self) -> Any:
        self._at = time.monotonic_ns()
        return await self._question()

    async def _question(self) -> Any:
        raise NotImplementedError

    async def _clear(self, answer: Any) -> None:
        pass


class ByReport(_Asked):
    """The agent reports its step."""

    async def _question(self) -> Any:
        return await self._agent.steps.report(self._agent.step_id)


class ByLock(_Asked):
    """An operator locks the tool for the agent, and lifts that afterwards."""

    def __init__(self, agents: Sequence[Agent], operator: Any) -> None:
        super().__init__(agents)
        self._operator = operator

    async def _question(self) -> Any:
        selector = types_pb2.Selector(tool="orders.search", workload=self._agent.workload)
        return await self._operator.SetLock(operator_pb2.SetLockRequest(selector=selector, reason="measured"))

    async def _clear(self, answer: Any) -> None:
        request = operator_pb2.LiftLockRequest(lock_id=answer.lock.lock_id, reason="measured")
        await self._operator.LiftLock(request)
        await asyncio.sleep(OPERATOR_SECONDS)


class ByPolicy(_Asked):
    """A policy set without this search is activated, and afterwards the one before."""

    def __init__(self, agents: Sequence[Agent], operator: Any, forbid: Path) -> None:
        super().__init__(agents)
        self._operator = operator
        self._forbid = forbid

    def begin(self) -> None:
        """See `Ending`."""
        self._forbid.write_text(FORBID)
        super().begin()

    async def _question(self) -> Any:
        answer = await self._operator.ReloadPolicy(operator_pb2.ReloadPolicyRequest())
        if not answer.activated:
            raise RuntimeError(f"the policy was refused: {answer.findings}")
        return answer

    async def _clear(self, answer: Any) -> None:  # noqa: ARG002 - whatever it was
        self._forbid.unlink()
        await self._question()


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
