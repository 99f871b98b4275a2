"""What a boundary asks, what policy sees of it, and what policy answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from stepgrant.errors import DenialCode
from stepgrant.grant import Binding, Tier
from stepgrant.intent import Json
from stepgrant_gateway.core.delegation import Envelope
from stepgrant_gateway.core.principal import METHOD_X509, Subject

OPEN_ACTION: Final = "task.open"
ASSIGN_ACTION: Final = "task.assign"
HAND_OFF_ACTION: Final = "task.hand_off"
TASK_ACTIONS: Final = frozenset({OPEN_ACTION, ASSIGN_ACTION, HAND_OFF_ACTION})
"""Boundaries of a whole task; every other action is a tool."""
BY_AGENT: Final = "agent"
BY_ASSIGNMENT: Final = "assignment"
VOUCHERS: Final = (BY_AGENT, BY_ASSIGNMENT)
"""Who can vouch for the type and the parameters of a task that is opened (`context.open.vouched_by`)."""
_READ: Final = frozenset({"read"})
LONGEST_MEMORY: Final = timedelta(days=30)
"""No `label_memory` window is longer: what no window reaches is forgotten."""


@dataclass(frozen=True, slots=True)
class Audience:
    """Who verifies grants of some tools: `verifiers` are the SPIFFE IDs that may redeem and watch for it."""

    id: str
    binding: Binding
    verifiers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool of the catalog. `digest`: SHA-256 over JCS of {effects, input_schema, name, target}, 32 bytes."""

    name: str
    digest: bytes
    effects: frozenset[str]
    tier: Tier
    audience: Audience
    target_template: str
    labels: frozenset[str]

    @property
    def only_reads(self) -> bool:
        """True if nothing changes and nothing leaves: such a grant may be used more than once."""
        return self.effects == _READ


@dataclass(frozen=True, slots=True)
class TaskType:
    """A task type of the catalog. `memory_scope` is `instance`, `workload`, or None without `label_memory`."""

    name: str
    groups: frozenset[str]
    max_age: timedelta
    memory_window: timedelta | None = None
    memory_scope: str | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """A named budget: `per` is `task`, `workload` or `subject`; `window` None = without end (task budgets end with the task)."""

    name: str
    per: str
    window: timedelta | None
    is_sum: bool


@dataclass(frozen=True, slots=True)
class Parameters:
    """Validated task parameters. `values` hold normalised forms; `sensitive` names those stored only as keyed digests."""

    values: Mapping[str, Json]
    sensitive: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Call:
    """A validated call: everything that follows from tool, arguments and catalog.

    `args_sha256`: 32 bytes over JCS of the arguments as sent (defaults not filled in). `tier`: the higher of tool's and
    target's. `deltas`: what the call adds to each budget it counts for. `envelope`: what children may do, from `calls:`,
    None = no children. `view` is policy's own form of args, parts and count; nobody else looks into it.
    """

    tool: Tool
    arguments: Mapping[str, Json]
    args_sha256: bytes
    target: str
    target_groups: frozenset[str]
    tier: Tier
    deltas: Mapping[str, Decimal]
    envelope: Envelope | None
    sensitive: frozenset[str]
    view: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What policy sees of a task (`principal` and `context.task`). `completed`: witnessed tools; `reported`: the agent's word."""

    task_id: str
    task_type: str
    workload: str
    parameters: Mapping[str, Json]
    labels: frozenset[str] = frozenset()
    completed: frozenset[str] = frozenset()
    reported: frozenset[str] = frozenset()
    denials: int = 0
    age: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class StepFacts:
    """What policy sees of the place of a step: `depth` 1 = directly in the task (0 for `task.open`)."""

    depth: int = 0
    parent_tool: str | None = None
    chain: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class HandingOn:
    """A step is handed on (`context.hand_off`). `giver`, `receiver`: SPIFFE IDs; `tool`: that of the step."""

    giver: str
    receiver: str
    tool: str


@dataclass(frozen=True, slots=True)
class Question:
    """One boundary, for one workload: the one that `task` names. `budget`: value of each named budget, this step included.

    `call` None = the task as a whole: `task.open`, or `task.assign` if `assigning`, or `task.hand_off` if `handing_on`.
    `dispatcher`: SPIFFE ID of who assigned it, or is about to; empty = nobody.
    """

    task: TaskFacts
    step: StepFacts
    call: Call | None
    budget: Mapping[str, Decimal]
    peer_method: str
    now: datetime
    vouched_by: str = BY_AGENT
    subject: Subject | None = None
    dispatcher: str = ""
    assigning: bool = False
    handing_on: HandingOn | None = None

    @property
    def action(self) -> str:
        """Its Cedar action."""
        if self.call is not None:
            return self.call.tool.name
        if self.handing_on is not None:
            return HAND_OFF_ACTION
        return ASSIGN_ACTION if self.assigning else OPEN_ACTION


@dataclass(frozen=True, slots=True)
class PolicyPlace:
    """A policy and where it stands, for the operator."""

    policy_id: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class PermitTerms:
    """A permit that is satisfied, and what its annotations grant at most."""

    place: PolicyPlace
    ttl: timedelta | None = None
    uses: int | None = None


@dataclass(frozen=True, slots=True)
class Permitted:
    """Policy allows; at least one permit."""

    permits: tuple[PermitTerms, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """Policy does not allow.

    `reason` and `next` are safe to show to the agent; `places` and `errors` (texts of evaluation errors, each naming
    policy, file and line) are for the operator only. `retry_after`: when the same may come out differently.
    """

    code: DenialCode
    reason: str
    next: str
    argument: str = ""
    places: tuple[PolicyPlace, ...] = ()
    errors: tuple[str, ...] = field(default=())
    retry_after: timedelta | None = None


Verdict = Permitted | Refused


NO_PERMIT: Final = Refused(
    DenialCode.NO_PERMIT,
    "no policy permits this.",
    "use a task type and tools that are offered to this workload, with the task's own values; else ask the operator.",
)
"""The answer to all that an agent's own task type cannot reach, whether it exists or not (invariant 12)."""


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict over a chain, from that over each workload in it: the first refusal, or the permits of all, each once.

    Nobody asked is nobody permitted. What comes after a refusal is not looked at.
    """
    permits: dict[PermitTerms, None] = {}
    for verdict in verdicts:
        if isinstance(verdict, Refused):
            return verdict
        permits.update(dict.fromkeys(verdict.permits))
    return Permitted(tuple(permits)) if permits else NO_PERMIT


def refuse_uncounted(budgets: Mapping[str, Budget], call: Call, subject: Subject | None) -> Refused | None:
    """The refusal of a call that a budget counts by subject, in a task that has none: it would be counted for nobody."""
    if subject is not None:
        return None
    for name in sorted(call.deltas):
        if budgets[name].per == "subject":
            return Refused(
                DenialCode.SUBJECT_REQUIRED,
                f"budget {name} is counted by subject, and this task runs on nobody's behalf.",
                "open the task with the subject token of the user.",
            )
    return None


def refuse_unheld(call: Call, peer_method: str) -> Refused | None:
    """The refusal of a call whose grant would be bound to a client certificate, to whoever was proven without one.

    Nothing that this caller could show at the resource would match: a token is never taken for a certificate (invariant 8).
    """
    if call.tool.audience.binding is not Binding.MTLS or peer_method == METHOD_X509:
        return None
    return Refused(
        DenialCode.CERTIFICATE_REQUIRED,
        "grants for this tool's resource are bound to a client certificate, and this task was opened with a bearer token.",
        "open the task with an X.509-SVID (STEPGRANT_CREDENTIAL=x509, at the listener for certificates), or ask the operator "
        "for `binding: key`.",
    )
