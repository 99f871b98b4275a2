"""The application of the gateway, built of its real parts, on a clock that the test moves; no wire, no sockets."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from stepgrant.errors import Denial
from stepgrant.ids import ulid
from stepgrant.intent import from_python
from stepgrant.selector import matches
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.subject import SubjectId
from stepgrant_gateway.app.assigning import Assigning
from stepgrant_gateway.app.delivering import Delivery, Signing
from stepgrant_gateway.app.disowning import Disowning
from stepgrant_gateway.app.expiry import Deadlines
from stepgrant_gateway.app.feed import Feed
from stepgrant_gateway.app.granting import Granting
from stepgrant_gateway.app.handing import Handing
from stepgrant_gateway.app.leasing import TaskLease
from stepgrant_gateway.app.lifecycle import Tasks
from stepgrant_gateway.app.logging_out import LoggingOut
from stepgrant_gateway.app.operating import Operating
from stepgrant_gateway.app.recording import Recorder
from stepgrant_gateway.app.redeeming import Redeeming
from stepgrant_gateway.app.resuming import Resuming
from stepgrant_gateway.app.revoking import Endings
from stepgrant_gateway.app.state import State
from stepgrant_gateway.core.boundary import DeclareStep, OpenTask, Outcome, Pushed, ReportStep, StepGranted
from stepgrant_gateway.core.events import Event
from stepgrant_gateway.core.ledger import decode_event
from stepgrant_gateway.core.observations import Count, Course, Timing
from stepgrant_gateway.core.ports import LedgerStore, PolicySource
from stepgrant_gateway.core.principal import Peer
from stepgrant_gateway.policy.load import load_policy
from stepgrant_gateway.policy.sets import LoadedPolicySet
from stepgrant_gateway.policy.source import DirectorySource
from stepgrant_gateway.storage.inputs import DigestSealer
from stepgrant_gateway.storage.memory import MemoryLedger
from stepgrant_gateway.tokens.keys import SigningKeys
from stepgrant_gateway.tokens.mint import GrantMinter
from tests.kit.clock import ManualClock
from tests.kit.subjects import JO, KEY, KnownTokens, subject_of

T = TypeVar("T")
SUPPORT = Path(__file__).parents[2] / "examples" / "demo" / "policy"
ISSUER = "spiffe://dev.stepgrant.test/gateway"
AGENT = "spiffe://dev.stepgrant.test/agent/support"
TRIAGE = "spiffe://dev.stepgrant.test/agent/triage"
ORDERS = "spiffe://dev.stepgrant.test/resource/orders"
MAIL = "spiffe://dev.stepgrant.test/resource/mail"
MAIL_AUDIENCE = "https://mail.dev.stepgrant.test"
OPERATOR = "spiffe://dev.stepgrant.test/operator/ada"
REFUND = {"order_id": "ord_00000042", "customer": "jo@x.org"}


class CountingEntropy:
    """Bytes that never repeat and that a failing test can repeat."""

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def __call__(self, count: int, /) -> bytes:
        return hashlib.sha256(next(self._count).to_bytes(8, "big")).digest()[:count].rjust(count, b"\0")


class KeySigner:
    """`SvidSigner` by a throw-away key; its chain is only a name here."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    def sign(self, message: bytes) -> tuple[bytes, tuple[bytes, ...]]:
        return self._key.sign(message, ec.ECDSA(hashes.SHA256())), (b"leaf",)


@functools.cache
def support_policy() -> LoadedPolicySet:
    """The support desk's policy, loaded once: it is immutable."""
    return load_policy(SUPPORT)


class Heard:
    """An `Observer` that remembers what it was told."""

    def __init__(self) -> None:
        self.decisions: list[tuple[Course, str, timedelta]] = []
        self.counts: Counter[tuple[Count, str]] = Counter()
        self.times: list[tuple[Timing, timedelta]] = []

    def decided(self, course: Course, code: str, answered: timedelta) -> None:
        self.decisions.append((course, code, answered))

    def count(self, what: Count, label: str = "", by: float = 1.0) -> None:
        self.counts[what, label] += by  # type: ignore[assignment]  # seconds are counted too

    def time(self, what: Timing, took: timedelta) -> None:
        self.times.append((what, took))


class Heart:
    """The use cases, wired as the gateway wires them."""

    def __init__(self, store: LedgerStore, source: PolicySource, policy: LoadedPolicySet) -> None:
        self.clock = ManualClock()
        self.entropy = CountingEntropy()
        self.store = store
        self.instance = ulid(self.clock.now(), self.entropy(10))
        self.state = State(policy)
        self.heard = heard = Heard()
        self.journal = Recorder(store, DigestSealer(self.entropy), self.clock, self.instance, observer=heard)
        self.feed = Feed(
            state=self.state, clock=self.clock, entropy=self.entropy, instance_id=self.instance, head=self.journal,
            observer=heard,
        )  # fmt: skip
        self.deadlines = Deadlines(self.clock)
        self.endings = Endings(
            state=self.state, clock=self.clock, journal=self.journal, feed=self.feed, deadlines=self.deadlines,
            observer=heard,
        )  # fmt: skip
        self.keys = SigningKeys(self.instance, KeySigner(), self.clock)
        self.keys.rotate(self.feed.publish)
        delivery = Delivery(
            state=self.state,
            clock=self.clock,
            entropy=self.entropy,
            endings=self.endings,
            deadlines=self.deadlines,
            signing=Signing(ISSUER, GrantMinter(self.keys)),
        )
        granting = Granting(
            state=self.state,
            clock=self.clock,
            entropy=self.entropy,
            journal=self.journal,
            endings=self.endings,
            delivery=delivery,
            observer=heard,
        )
        self.tokens = KnownTokens()
        self.tasks = Tasks(
            state=self.state,
            clock=self.clock,
            entropy=self.entropy,
            journal=self.journal,
            granting=granting,
            handing=Handing(
                state=self.state, clock=self.clock, entropy=self.entropy, journal=self.journal, endings=self.endings
            ),
            endings=self.endings,
            resuming=Resuming(
                state=self.state,
                clock=self.clock,
                entropy=self.entropy,
                journal=self.journal,
                endings=self.endings,
            ),
            prover=self.tokens,
            observer=heard,
        )
        self.assigning = Assigning(
            state=self.state, clock=self.clock, entropy=self.entropy, journal=self.journal, endings=self.endings,
            deadlines=self.deadlines, observer=heard,
        )  # fmt: skip
        self.redeeming = Redeeming(
            state=self.state, clock=self.clock, journal=self.journal, feed=self.feed, endings=self.endings,
            observer=heard,
        )  # fmt: skip
        self.operating = Operating(
            state=self.state,
            clock=self.clock,
            entropy=self.entropy,
            journal=self.journal,
            feed=self.feed,
            endings=self.endings,
            source=source,
            observer=heard,
        )
        self.logging_out = LoggingOut(
            state=self.state, clock=self.clock, journal=self.journal, endings=self.endings
        )  # fmt: skip
        self.disowning = Disowning(state=self.state, endings=self.endings, prover=self.tokens)
        self.pushed: list[Pushed] = []

    def peer(self, spiffe_id: str = AGENT, *, lives: timedelta = timedelta(hours=1), leaf: bytes = b"leaf") -> Peer:
        """A verified workload whose SVID lives so long."""
        return Peer(parse_spiffe_id(spiffe_id), "x509", self.clock.now() + lives, hashlib.sha256(leaf).digest())

    async def open(
        self,
        task_type: str = "Refund",
        parameters: dict[str, object] | None = None,
        *,
        peer: Peer | None = None,
        jkt: bytes = b"k" * 32,
        subject_token: str = "",
    ) -> TaskLease:
        """An open task; fails the test when it is denied."""
        lease = await self.ask(task_type, parameters, peer=peer, jkt=jkt, subject_token=subject_token)
        assert isinstance(lease, TaskLease), lease
        return lease

    async def ask(
        self,
        task_type: str = "Refund",
        parameters: dict[str, object] | None = None,
        *,
        peer: Peer | None = None,
        jkt: bytes = b"k" * 32,
        subject_token: str = "",
    ) -> TaskLease | Denial:
        """An open task, or why not."""
        given = from_python(REFUND if parameters is None else parameters)
        assert isinstance(given, dict)
        request = OpenTask(task_type, given, "a test", jkt, subject_token=subject_token)
        return await self.tasks.open(peer or self.peer(), request, self.pushed.append)

    def token(
        self, of: SubjectId = JO, *, lives: timedelta = timedelta(minutes=10), key: bytes = KEY, **claims: object
    ) -> str:
        """A token that proves this user for so long, with these claims, signed by this key of the issuer's."""
        token = f"token {len(self.tokens.tokens)}"
        self.tokens.tokens[token] = subject_of(of, self.clock.now() + lives, claims, key)
        return token

    async def take(
        self,
        token: bytes,
        *,
        peer: Peer | None = None,
        jkt: bytes = b"k" * 32,
        task_type: str = "Refund",
        parameters: dict[str, object] | None = None,
        pushed: list[Pushed] | None = None,
        subject_token: str = "",
    ) -> TaskLease | Denial:
        """What another stream gets that comes with a resume token; by default of the same agent, with the same words."""
        given = from_python(REFUND if parameters is None else parameters)
        assert isinstance(given, dict)
        hear = self.pushed if pushed is None else pushed
        request = OpenTask(task_type, given, "a test", jkt, token, subject_token)
        return await self.tasks.open(peer or self.peer(), request, hear.append)

    async def taken(self, token: bytes, **more: object) -> TaskLease:
        """The lease that was taken up; fails the test when it is denied."""
        lease = await self.take(token, **more)  # type: ignore[arg-type]
        assert isinstance(lease, TaskLease), lease
        return lease

    async def recorded(self) -> list[Event]:
        """What stands in the ledger, once all that has happened does."""
        await self.journal.record_end().durable()
        return [decode_event(record.body) for record in self.store.read(self.instance, 0, 100_000)]

    def intent(
        self,
        tool: str,
        arguments: dict[str, object],
        *,
        step_id: str | None = None,
        parent: str | None = None,
        ttl: timedelta | None = None,
    ) -> DeclareStep:
        """A declare under a fresh step id."""
        given = from_python(arguments)
        assert isinstance(given, dict)
        fresh = step_id or ulid(self.clock.now(), self.entropy(10))
        return DeclareStep(fresh, parent, tool, given, "a test", ttl, None)

    async def granted(self, lease: TaskLease, tool: str, arguments: dict[str, object], **more: object) -> StepGranted:
        """A granted step; fails the test when it is denied."""
        answer = await lease.declare(self.intent(tool, arguments, **more))  # type: ignore[arg-type]
        assert isinstance(answer, StepGranted), answer
        return answer

    def known_dead(self, grant_id: str) -> bool:
        """True if resources were told: by the grant's own event, or by that of a lock, or its lifting, that matches it."""
        if self.feed.revoked(grant_id) is not None:
            return True
        step = self.state.grants[grant_id]
        selectors = [
            *(lock.selector for lock in self.state.locks.values()),
            *(lock.selector for lock in self.state.lifted),
        ]
        return step.code == "locked" and any(
            matches(
                selector, workload=AGENT, task_type="Refund", tool=step.declared.tool, target=step.target, subject=None
            )
            for selector in selectors
        )

    async def while_time_passes(self, work: Awaitable[T]) -> T:
        """The result of `work`, the clock going on in small steps until it is there."""
        task = asyncio.ensure_future(work)
        while not task.done():
            self.clock.advance(timedelta(milliseconds=50))
            await asyncio.wait({task}, timeout=0.002)
        return task.result()

    async def looked_up(self, lease: TaskLease) -> StepGranted:
        """An `orders.get` that the resource has redeemed and the agent reported, so that it counts as completed."""
        step = await self.granted(lease, "orders.get", {"order_id": "ord_00000042"})
        redemption = ulid(self.clock.now(), self.entropy(10))
        redeemed = await self.redeeming.redeem(ORDERS, ORDERS, step.grant_id, redemption)
        assert redeemed.accepted, redeemed
        lease.report(ReportStep(step.step_id, Outcome.COMPLETED, None, ""))
        return step


@asynccontextmanager
async def heart(
    store: LedgerStore | None = None, directory: Path = SUPPORT, policy: LoadedPolicySet | None = None
) -> AsyncIterator[Heart]:
    """The application, started and closed; `directory` is where it reloads its policy from, `policy` what is loaded of it."""
    policy = policy or (support_policy() if directory == SUPPORT else load_policy(directory))
    built = Heart(store or MemoryLedger(), DirectorySource(directory), policy)
    await built.journal.start()
    try:
        yield built
    finally:
        await built.while_time_passes(built.journal.close())
