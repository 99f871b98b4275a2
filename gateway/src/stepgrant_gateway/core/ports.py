"""Ports: what the application needs of the world, and all that adapters and application know of each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from stepgrant.errors import Denial
from stepgrant.grant import GrantClaims
from stepgrant.intent import Json
from stepgrant_gateway.core.decision import Audience, Budget, Call, Parameters, Question, TaskType, Tool, Verdict
from stepgrant_gateway.core.events import Event
from stepgrant_gateway.core.ledger import Record, SealedInput


class Timer(Protocol):
    """A call that is going to happen."""

    def cancel(self) -> None:
        """Let it not happen; harmless when it has."""


class Clock(Protocol):
    """Time and the one timer. `now` is aware UTC; `monotonic` only its differences mean something."""

    def now(self) -> datetime:
        """Wall-clock time, aware UTC."""

    def monotonic(self) -> timedelta:
        """Time that never goes back."""

    def call_at(self, when: timedelta, callback: Callable[[], None]) -> Timer:
        """Calls `callback` once when `monotonic()` has reached `when`."""


class Entropy(Protocol):
    """Random bytes."""

    def __call__(self, count: int, /) -> bytes:
        """`count` random bytes, unpredictable."""


class Catalog(Protocol):
    """The operator's declaration of task types, tools, targets and budgets, as the application uses it."""

    @property
    def task_types(self) -> Mapping[str, TaskType]:
        """By name."""

    @property
    def tools(self) -> Mapping[str, Tool]:
        """By name `server.tool`."""

    @property
    def audiences(self) -> Mapping[str, Audience]:
        """By id."""

    @property
    def budgets(self) -> Mapping[str, Budget]:
        """By name."""

    def prepare_task(self, task_type: str, parameters: Mapping[str, Json]) -> Parameters | Denial:
        """Validated parameters, or `arguments_invalid` with what is wrong."""

    def prepare_call(self, tool: str, arguments: Mapping[str, Json]) -> Call | Denial:
        """The validated call, or `arguments_invalid` (`no_permit` if no target of the catalog matches)."""


class PolicySet(Protocol):
    """One activated policy directory: immutable, swapped whole."""

    @property
    def digest(self) -> str:
        """`sha256:` and 64 hexadecimal digits over everything that was loaded."""

    @property
    def catalog(self) -> Catalog:
        """The catalog of the same directory."""

    def tools_for(self, task_type: str) -> frozenset[str]:
        """Tools that some permit could allow to tasks of this type."""

    def evaluate(self, question: Question) -> Verdict:
        """The decision, without locks and budgets' bookkeeping; any error denies (invariant 2)."""


class SvidSigner(Protocol):
    """Signs with the private key of the gateway's own X.509-SVID."""

    def sign(self, message: bytes) -> tuple[bytes, tuple[bytes, ...]]:
        """Signature (ECDSA with SHA-256, DER; or RSA PSS with SHA-256) and the SVID's chain, leaf first, DER."""


class Minter(Protocol):
    """Signs grants."""

    def mint(self, claims: GrantClaims) -> str:
        """The compact token. The active key lives at least until `claims.expires_at`."""


class LedgerStore(Protocol):
    """Durable storage of chained records and, beside them, of encrypted inputs."""

    def append(self, records: Sequence[Record], inputs: Sequence[SealedInput]) -> None:
        """All or nothing, durable on return. Blocking; called from the writer's own thread only."""

    def head(self) -> tuple[str, int, bytes] | None:
        """Instance, sequence and hash of the newest record of all, or None; blocking."""

    def read(self, instance_id: str, after: int, limit: int) -> Sequence[Record]:
        """Records of one chain with a sequence above `after`, in order, at most `limit`; blocking."""


class Journal(Protocol):
    """Where the application records what happened. One order: the order of calls."""

    def record(self, *events: Event) -> Receipt:
        """Puts events into one batch, in order, and returns at once. Never raises, never blocks."""


class Receipt(Protocol):
    """The promise of a record."""

    async def durable(self) -> int:
        """Sequence of the last event of the batch, once it is durable.

        Raises:
            UnrecordedError: it could not be recorded within the journal's bound; nothing of it will be.
        """

    def done(self) -> bool:
        """True if it is durable already."""
