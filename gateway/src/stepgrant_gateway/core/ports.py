"""Ports: what the application needs of the world, and all that adapters and application know of each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Protocol

from stepgrant.errors import Denial
from stepgrant.grant import GrantClaims
from stepgrant.intent import Json
from stepgrant_gateway.core.decision import (
    Audience,
    Budget,
    Call,
    Parameters,
    Question,
    Refused,
    TaskFacts,
    TaskType,
    Tool,
    Verdict,
)
from stepgrant_gateway.core.errors import UnrecordedError
from stepgrant_gateway.core.events import Event
from stepgrant_gateway.core.ledger import ChainHead, DataKey, Record, Sealed, SealedInput
from stepgrant_gateway.core.observations import Count, Course, Timing
from stepgrant_gateway.core.principal import Subject
from stepgrant_gateway.core.revocation import Checkpoint


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

    def blank_parameters(self, task_type: str) -> Parameters:
        """Parameters of the right types that say nothing: empty texts and zeros, optional ones left out."""

    def prepare_subject(self, subject: Subject) -> Mapping[str, Json] | Denial:
        """The declared claims of a subject, validated and normalised, or `subject_invalid` with what does not fit."""

    @property
    def sensitive_claims(self) -> frozenset[str]:
        """Declared claims that are stored as keyed digests only, as `claims.NAME`."""

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

    @property
    def case_count(self) -> int:
        """Golden cases that ran when it was loaded."""

    def tools_for(self, task_type: str) -> frozenset[str]:
        """Tools that some permit could allow to tasks of this type."""

    def concerns(self, task: TaskFacts) -> bool:
        """True if the scope of some permit lets such a task of that workload be opened, whatever its conditions say."""

    def evaluate(self, question: Question) -> Verdict:
        """The decision, without locks and budgets' bookkeeping; any error denies (invariant 2)."""


class SubjectProver(Protocol):
    """Says who a subject token is about."""

    def prove(self, token: str) -> Subject | Refused:
        """The subject, if the token is one of a configured issuer, for this gateway, and valid now.

        What it answers tells of the token only. It never waits: keys are fetched beforehand and beside.
        """

    def still_stands(self, subject: Subject) -> bool:
        """Whether the key that the subject's token was signed with is one of its issuer's, as they were fetched last."""


class SvidSigner(Protocol):
    """Signs with the private key of the gateway's own X.509-SVID."""

    def sign(self, message: bytes) -> tuple[bytes, tuple[bytes, ...]]:
        """Signature (ECDSA with SHA-256, DER; or RSA PSS with SHA-256) and the SVID's chain, leaf first, DER."""


class Minter(Protocol):
    """Signs grants."""

    def mint(self, claims: GrantClaims) -> str:
        """The compact token. The active key lives at least until `claims.expires_at`."""


class LedgerReading(Protocol):
    """Reads chained records; all blocking, from any thread."""

    def heads(self) -> Sequence[ChainHead]:
        """The head of every chain, in the order in which the chains began; what it says is durable."""

    def read(self, instance_id: str, after: int, limit: int) -> Sequence[Record]:
        """Records of one chain with a sequence above `after`, in order, at most `limit`."""


class LedgerStore(LedgerReading, Protocol):
    """Durable storage of chained records, and of encrypted inputs put beside them."""

    def append(self, records: Sequence[Record], inputs: Sequence[SealedInput], keys: Sequence[DataKey] = ()) -> None:
        """All or nothing, durable on return. Blocking; called from the writer's own thread only.

        `records` are of one chain and follow its head. A data key that is there already is left as it is.

        Raises:
            LedgerBrokenError: the records do not follow the head; nothing was stored.
            Exception: of any other kind: the outcome is unknown until `heads` says what is durable.
        """


class SnapshotStore(Protocol):
    """Where snapshots of the fold lie, beside the ledger. Nothing that it says is believed without the chain's word."""

    def keep(self, snapshot: bytes) -> None:
        """Keeps this one durably, and the one before it; blocking. Raises OSError when it cannot."""

    def kept(self) -> Iterator[bytes]:
        """What is there, the newest first, each read when it is asked for; blocking. What cannot be read is left out."""


class InputStore(Protocol):
    """The encrypted inputs beside the chains, which have a retention of their own."""

    def input_of(self, instance_id: str, sequence: int) -> tuple[SealedInput, DataKey] | None:
        """The input of one event and the wrapped key to it, or None when there is none any more; blocking."""

    def expire(self, before: date) -> int:
        """Destroys data keys of days before `before`, and every input under them; their number. Breaks no chain."""


class Sealer(Protocol):
    """Seals the inputs of events."""

    def seal(self, event: Event, instance_id: str, sequence: int) -> Sealed:
        """The salted digest of `event.input`, and the input encrypted unless inputs are not kept.

        Raises:
            EventInvalidError: the input is not strict JSON, or too large.
        """


class Journal(Protocol):
    """Where the application records what happened. One order: the order of calls."""

    def record(self, *events: Event) -> Receipt:
        """Puts events into one batch, in order, and returns at once. Never raises, never blocks.

        For what must be durable before it is used (grants, denials, openings). What cannot be recorded within the
        journal's bound fails and is dropped, unless it lies with the ledger already and becomes durable after all:
        whoever hears of the failure records the end of what it had begun, with `record_end`.
        """

    def record_end(self, *events: Event) -> Receipt:
        """The same for what has already taken effect: a revocation, a lock, a report, a stream's end. Never dropped.

        It is tried again, in order, until it can be recorded; until then nothing that was recorded after it becomes
        durable, so that nothing new is minted. The receipt's failure says "in force, not yet recorded".
        """


class Receipt(Protocol):
    """The promise of a record."""

    async def durable(self) -> int:
        """Sequence of the last event of the batch, once it is durable.

        Raises:
            UnrecordedError: it could not be recorded within the journal's bound. Of `record`: nothing of it counts.
                Of `record_end`: it is still going to be recorded.
        """

    def then(self, hear: Callable[[UnrecordedError | None], object]) -> None:
        """Calls `hear`, which does not raise, once `durable` would return or raise: in that same breath, without a task."""

    def done(self) -> bool:
        """True if it is durable already."""


class LedgerHead(Protocol):
    """How far this gateway's chain is durable: what heartbeats say."""

    @property
    def position(self) -> int:
        """Sequence of the last durable event; 0 before the first."""

    def checkpoint(self) -> Checkpoint | None:
        """The latest signed checkpoint, or None before the first. It never goes back."""


class PolicySource(Protocol):
    """Where policy sets come from."""

    def load(self) -> PolicySet:
        """The directory as it is now, checked whole, its golden cases run; blocking.

        Raises:
            PolicyRefusedError: with everything that is wrong.
        """


class Observer(Protocol):
    """Hears what happens, as it happens, for whoever looks after the gateway. Never raises, never waits, changes nothing."""

    def decided(self, course: Course, code: str, answered: timedelta) -> None:
        """A decision was answered at `answered` (monotonic); `code` of its denial, empty if it was granted."""

    def count(self, what: Count, label: str = "", by: float = 1.0) -> None:
        """Something happened; `label` is the value of the one label that `what` has."""

    def time(self, what: Timing, took: timedelta) -> None:
        """Something took so long."""
