"""The gateway's gRPC face on loopback, in front of fakes: for tests of what goes over the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import grpc

from stepgrant.errors import Denial
from stepgrant.grant import Binding, Tier
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.v1 import agent_pb2
from stepgrant_gateway.core.boundary import (
    Assigned,
    AssignTask,
    Audienced,
    DeclareStep,
    HandedOff,
    HandOffStep,
    OpenTask,
    Outcome,
    Pushed,
    Redeemed,
    ReportStep,
    StepGranted,
    StepSettled,
    TaskClosed,
    TaskOpened,
    ToolOffer,
    Withdrawn,
)
from stepgrant_gateway.core.errors import NotAllowedError, NotFoundError
from stepgrant_gateway.core.principal import Peer
from stepgrant_gateway.core.revocation import FeedEvent
from stepgrant_gateway.core.settings import Address
from stepgrant_gateway.listeners import Services
from stepgrant_gateway.rpc.agent import AgentService
from stepgrant_gateway.rpc.caller import Evidence
from stepgrant_gateway.rpc.dispatcher import DispatcherService
from stepgrant_gateway.rpc.interceptor import IdentityInterceptor
from stepgrant_gateway.rpc.live import LiveCalls
from stepgrant_gateway.rpc.opening import Speaker
from stepgrant_gateway.rpc.operator import OperatorService
from stepgrant_gateway.rpc.quotas import Quotas
from stepgrant_gateway.rpc.server import TRANSPORT, Server, Transport
from stepgrant_gateway.rpc.verifier import VerifierService
from tests.kit.clock import START, ManualClock
from tests.kit.heart import Heart

GATEWAY_ID = "spiffe://acme.org/stepgrant"
INSTANCE = "01KAJ7RM000000000000000000"
TASK = "01KAJ7RM00000000000000TASK"
STEP = "01KAJ7RM00000000000000STEP"
GRANT = "01KAJ7RM0000000000000GRANT"
ASSIGNMENT = "01KAJ7RM000000000000ASSGNT"
AGENT = Peer(parse_spiffe_id("spiffe://acme.org/agent/support/7"), "x509", START + timedelta(hours=1), b"c" * 32)
LIMITS = agent_pb2.Limits(live_steps=16, depth=4, arguments_bytes=65536, steps=1000)


class FakeLease:
    """A lease that grants everything and remembers what it was asked."""

    def __init__(self, push: Callable[[Pushed], None], expires_at: datetime) -> None:
        self.push = push
        self.opened = TaskOpened(TASK, expires_at, (ToolOffer("orders.get", "spiffe://acme.org/orders", Binding.MTLS),))
        self.asked: list[object] = []
        self.ended: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
        self.hold: asyncio.Event | None = None
        self.error: Exception | None = None
        self.steps_live_on = False
        self.losses: list[str] = []

    def declare(self, request: DeclareStep) -> asyncio.Future[StepGranted | Denial]:
        self.asked.append(request)
        if self.error is not None:
            raise self.error
        return asyncio.ensure_future(self._granted(request.step_id))

    def renew(self, step_id: str) -> asyncio.Future[StepGranted | Denial]:
        self.asked.append(step_id)
        return asyncio.ensure_future(self._granted(step_id))

    def hand_off(self, request: HandOffStep) -> asyncio.Future[HandedOff | Denial]:
        self.asked.append(request)
        return asyncio.ensure_future(self._handed(request.step_id))

    async def _handed(self, step_id: str) -> HandedOff | Denial:
        if self.hold is not None:
            await self.hold.wait()
        return HandedOff(step_id, GRANT, b"t" * 32, GRANT)

    async def _granted(self, step_id: str) -> StepGranted | Denial:
        if self.hold is not None:
            await self.hold.wait()
        return granted(step_id)

    def report(self, request: ReportStep) -> StepSettled:
        self.asked.append(request)
        return StepSettled(request.step_id, request.outcome.value, late=False)

    def close(self, outcome: Outcome) -> TaskClosed:
        self.asked.append(outcome)
        self.push(TaskClosed("closed", "pushed by the real one as well"))
        return TaskClosed("closed", "as asked")

    def resume_token(self) -> bytes:
        return b"r" * 32

    def when_released(self, end_watch: Callable[[], None]) -> None:
        if not self.steps_live_on:
            end_watch()

    def lost(self, code: str, reason: str) -> None:
        self.losses.append(code)
        if not self.ended.done():
            self.ended.set_result((code, reason))


class FakeTasks:
    """Opens every task, unless it is told to deny."""

    def __init__(self) -> None:
        self.denial: Denial | None = None
        self.requests: list[tuple[Peer, OpenTask]] = []
        self.leases: list[FakeLease] = []
        self.hold: asyncio.Event | None = None
        self.asked = asyncio.Event()
        self.leased = asyncio.Event()

    async def open(self, peer: Peer, request: OpenTask, push: Callable[[Pushed], None]) -> FakeLease | Denial:
        self.requests.append((peer, request))
        self.asked.set()
        if self.hold is not None:
            await self.hold.wait()
        if self.denial is not None:
            return self.denial
        lease = FakeLease(push, peer.not_after)
        self.leases.append(lease)
        self.leased.set()
        return lease


class FakeRedeeming:
    """Accepts what the audience `mine` asks."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    async def redeem(self, caller: str, audience: str, grant_id: str, redemption_id: str) -> Redeemed:
        if audience != "mine":
            raise NotAllowedError(f"{audience} is not an audience of {caller}")
        self.asked.append((caller, audience, grant_id, redemption_id))
        return Redeemed(accepted=True, remaining_uses=0)

    async def attest(self, caller: str, audience: str, grant_id: str, outcome: Outcome, result: bytes | None) -> bool:
        self.asked.append((caller, audience, grant_id, outcome, result))
        return True


class FakeAssigning:
    """Assigns everything, and withdraws what is of the name ASSIGNMENT."""

    def __init__(self) -> None:
        self.answer: Assigned | Denial | Exception = Assigned(ASSIGNMENT, "open")
        self.asked: list[tuple[Peer, AssignTask]] = []

    async def assign(self, peer: Peer, request: AssignTask) -> Assigned | Denial:
        self.asked.append((peer, request))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def withdraw(self, peer: Peer, assignment_id: str) -> Withdrawn:
        if assignment_id != ASSIGNMENT:
            raise NotFoundError(f"{peer.spiffe_id} has no assignment {assignment_id}")
        return Withdrawn(TASK, durable=True)


class FakeSubscription:
    """Gives the events that a test puts in."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[FeedEvent | Exception | None] = asyncio.Queue()
        self.closed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[FeedEvent]:
        while (event := await self.events.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event

    def close(self) -> None:
        self.closed.set()
        self.events.put_nowait(None)


class FakeFeed:
    """Subscribes everybody to audience `mine`."""

    def __init__(self) -> None:
        self.subscription = FakeSubscription()

    def subscribe(self, caller: str, audiences: Sequence[str]) -> FakeSubscription:
        if tuple(audiences) != ("mine",):
            raise NotAllowedError("not an audience of yours")
        return self.subscription


class Face:
    """Everything that a test of the face looks at."""

    def __init__(
        self,
        operating: object = None,
        tail: object = None,
        operators: frozenset[str] = frozenset(),
        application: Heart | None = None,
        transport: Transport = TRANSPORT,
    ) -> None:
        """`application`: the real one, in place of the fakes; `transport`: what its connections may take."""
        self.clock = application.clock if application else ManualClock()
        self.peer: Peer | Exception = application.peer() if application else AGENT
        self.stale: str | None = None
        self.denied: list[tuple[str, str]] = []
        self.tasks: Any = application.tasks if application else FakeTasks()
        self.assigning: Any = application.assigning if application else FakeAssigning()
        self.redeeming: Any = application.redeeming if application else FakeRedeeming()
        self.feed: Any = application.feed if application else FakeFeed()
        self.live = LiveCalls(self.clock, self.verify)
        self.quotas = Quotas(self.clock)
        speaker = Speaker(GATEWAY_ID, INSTANCE, LIMITS)
        entropy = application.entropy if application else lambda count: b"n" * count
        self.agent = AgentService(self.tasks, speaker, self.live, self.clock, entropy, self.quotas)

        def denied(method: str, reason: str) -> None:
            self.denied.append((method, reason))

        interceptor = IdentityInterceptor(self.verify, lambda: self.stale, denied, self.quotas)
        self.services = Services(
            self.agent,
            VerifierService(self.redeeming, self.feed, self.live, self.clock),
            OperatorService(operating, tail, operators, self.live, denied),  # type: ignore[arg-type]
            DispatcherService(self.assigning),
        )
        self.server = Server(
            interceptor, self.agent, transport,
            self.services.verifier, self.services.operator, self.services.dispatcher,
        )  # fmt: skip
        self.port = 0

    def verify(self, evidence: Evidence) -> Peer:
        if isinstance(self.peer, Exception):
            raise self.peer
        return self.peer


def granted(step_id: str) -> StepGranted:
    """A grant of that step."""
    return StepGranted(
        step_id=step_id,
        decision_id=INSTANCE,
        token="token",
        grant_id=GRANT,
        expires_at=START + timedelta(seconds=20),
        step_expires_at=START + timedelta(minutes=5),
        uses=1,
        tier=Tier.SENSITIVE,
        audience=Audienced("spiffe://acme.org/orders", Binding.MTLS),
        target="pg://orders/1",
        at=START,
        policies=("refund",),
    )


@asynccontextmanager
async def serving(face: Face) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the face, on loopback."""
    face.port = await face.server.start("gateway.listen", Address("127.0.0.1", 0), grpc.local_server_credentials())
    await face.server.show(())
    try:
        async with grpc.aio.secure_channel(f"127.0.0.1:{face.port}", grpc.local_channel_credentials()) as channel:
            yield channel
    finally:
        await face.server.stop(0)
