"""From the end of a step to its first refusal at a resource: by report, lock, policy change, and the agent's death.

Both moments are of the machine's monotonic clock. Twice over: until the verifier in the resource's process refuses, which
looks over and over, and until a caller's own gRPC call comes back refused, the call included.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Protocol

import grpc
from children import Child
from effort import Effort
from endings import LOCKED_IN_TURN, Agent, Asked, ByKill, Ending, Held, Lock, Reload, Report
from figures import Findings
from rig import GATEWAY, OPERATOR, ORDERS, SUPPORT, Rig, channel, running
from streams import ARGUMENTS, PARAMETERS, task
from whole_steps import OrdersStub, SearchRequest

from stepgrant.grant import GRANT_METADATA_KEY, REFUSAL_METADATA_KEY
from stepgrant.v1 import operator_pb2_grpc
from stepgrant_gateway.app.auditing import read_all
from stepgrant_gateway.core.events import EventType
from stepgrant_gateway.storage.sqlite import SqliteLedgerReader

REFUSED: Final = frozenset({"revoked", "locked"})
"""With any other code the grant was refused for a reason that is not its end."""
VICTIMS_AT_ONCE: Final = 5
REPORTERS: Final = 4
AGENTS: Final = tuple(f"{SUPPORT}/{number}" for number in range(REPORTERS + LOCKED_IN_TURN))
"""The first report, and hear of new policies; the others are locked. Whoever was locked could not be granted anything at once."""


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
        endings = {
            "report": Asked(agents[:REPORTERS], Report()),
            "lock": Asked(agents[REPORTERS:], Lock(operator)),
        }
        for prefix, look in looks.items():
            for name, ending in endings.items():
                pairs = await ended(look, ending, effort.ends)
                found.spans[f"{prefix}refused_after_{name}"] = [_seconds(begun, refused) for begun, refused in pairs]
        reload = Reload(operator, rig.directory / "policy" / "measured.cedar")
        await _policies(rig, Asked(agents[:REPORTERS], reload), looks, effort, found)
        pairs = await killed(rig, looks[""], effort.hard_ends)
        found.spans["refused_after_kill"] = [_seconds(begun, refused) for begun, refused in pairs]
    return found


async def _policies(rig: Rig, ending: Ending, looks: Mapping[str, Look], effort: Effort, found: Findings) -> None:
    """A policy change counts from the activation on record: when the new set was loaded and had passed its own tests."""
    ledger = rig.directory / "ledger.db"
    wall = time.time_ns() - time.monotonic_ns()
    before = len(activations(ledger))
    pairs = {prefix: await ended(look, ending, effort.ends) for prefix, look in looks.items()}
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
