"""What a golden case takes for granted: the task as it stands, who asks, and what came before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from stepgrant.errors import Denial, StepgrantError
from stepgrant.grant import MAX_CHAIN
from stepgrant.intent import Json, from_python
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.subject import SubjectId
from stepgrant_gateway.core.decision import BY_AGENT, BY_ASSIGNMENT, VOUCHERS, HandingOn, TaskFacts
from stepgrant_gateway.core.principal import METHOD_X509, METHODS, Subject
from stepgrant_gateway.policy.findings import refused
from stepgrant_gateway.policy.sets import LoadedPolicySet
from stepgrant_gateway.policy.yaml_reader import Value

MAX_LISTED: Final = 1000
CASE_NOW: Final = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
"""The time of a case that names none: a decision over the same case is the same on every day."""
CASE_FOREVER: Final = datetime(9999, 12, 31, tzinfo=UTC)
"""The end of the subject token of a case: time plays no part there."""
CASE_TASK_ID: Final = "01JGH3Z5R0000000000000CASE"
_BEFORE: Final = (
    *("completed", "reported", "labels", "denials", "age", "budget", "peer", "now"),
    *("vouched_by", "dispatcher", "chain", "hand_off"),
)


@dataclass(frozen=True, slots=True)
class Given:
    """What came before, and the task as its facts. `asked`: the workloads that the decision is about, the origin first.

    `asked` is the task's own workload alone, unless the case states a chain.
    """

    facts: TaskFacts
    budget: Mapping[str, Decimal]
    peer: str
    now: datetime
    subject: Subject | None
    vouched_by: str
    dispatcher: str
    asked: tuple[str, ...]
    handing_on: HandingOn | None

    @property
    def chain(self) -> frozenset[str]:
        """All workloads that have part in the step, or are going to."""
        receiving = () if self.handing_on is None else (self.handing_on.giver, self.handing_on.receiver)
        return frozenset({*self.asked, *receiving})


def read_given(task: Value, given: Value | None, policy: LoadedPolicySet) -> Given | Denial:
    """What `task` and `given` of a case state, or how a gateway would deny the parameters or the subject.

    Raises:
        PolicyRefusedError: for what cannot be.
    """
    keys = task.section("`task`", required=("type", "workload"), optional=("parameters", "subject"))
    workload = _spiffe_id(keys["workload"], "`workload`")
    task_type = keys["type"].choice("`type`", tuple(sorted(policy.catalog.task_types)))
    parameters = policy.catalog.prepare_task(
        task_type, read_json(keys["parameters"], "`parameters`") if "parameters" in keys else {}
    )
    if isinstance(parameters, Denial):
        return parameters
    subject = _subject(keys["subject"], policy) if "subject" in keys else None
    if isinstance(subject, Denial):
        return subject
    before = given.section("`given`", optional=_BEFORE) if given is not None else {}
    facts = TaskFacts(
        task_id=CASE_TASK_ID,
        task_type=task_type,
        workload=workload,
        parameters=parameters.values,
        labels=_names(before.get("labels"), "`labels`", policy.catalog.labels),
        completed=_names(before.get("completed"), "`completed`", frozenset(policy.catalog.tools)),
        reported=_names(before.get("reported"), "`reported`", frozenset(policy.catalog.tools)),
        denials=before["denials"].count("`denials`", least=0, most=1_000_000) if "denials" in before else 0,
        age=before["age"].duration("`age`") if "age" in before else timedelta(0),
    )
    budget = {}
    if "budget" in before:
        for name, value in before["budget"].section("`budget`", optional=tuple(sorted(policy.catalog.budgets))).items():
            budget[name] = value.number(f"`{name}`")
    peer = before["peer"].choice("`peer`", METHODS) if "peer" in before else METHOD_X509
    vouched_by = before["vouched_by"].choice("`vouched_by`", VOUCHERS) if "vouched_by" in before else BY_AGENT
    dispatcher = _spiffe_id(before["dispatcher"], "`dispatcher`") if "dispatcher" in before else ""
    if vouched_by == BY_ASSIGNMENT and not dispatcher:
        before["vouched_by"].refuse("An assignment is somebody's: name the `dispatcher`.")
    asked = _chain(before["chain"], workload) if "chain" in before else (workload,)
    handing_on = _handing_on(before["hand_off"], policy) if "hand_off" in before else None
    if handing_on is not None and "chain" in before:
        _check_receiver(before["chain"], asked, handing_on)
    now = _time(before.get("now"))
    return Given(facts, budget, peer, now, subject, vouched_by, dispatcher, asked, handing_on)


def read_json(value: Value, what: str) -> dict[str, Json]:
    """A mapping as an agent would send it; raises PolicyRefusedError for one that JSON cannot hold."""
    value.entries(what, most=MAX_LISTED)
    try:
        parsed = from_python(_plain(value))
    except StepgrantError as error:
        raise refused(value.file, value.line, f"{what}: {error}.") from None
    return parsed if isinstance(parsed, dict) else {}


def _chain(value: Value, workload: str) -> tuple[str, ...]:
    chain = tuple(_spiffe_id(item, "`chain`") for item in value.items("`chain`", most=MAX_CHAIN))
    if not chain or chain[-1] != workload:
        value.refuse("`chain` ends with the `workload` of the task.")
    if len(set(chain)) != len(chain):
        value.refuse("`chain` names a workload twice: nobody is handed what has come through it.")
    return chain


def _handing_on(value: Value, policy: LoadedPolicySet) -> HandingOn:
    keys = value.section("`hand_off`", required=("from", "to", "tool"))
    giver, receiver = _spiffe_id(keys["from"], "`from`"), _spiffe_id(keys["to"], "`to`")
    if giver == receiver:
        value.refuse("Nobody hands on to itself: `from` and `to` are two workloads.")
    return HandingOn(giver, receiver, keys["tool"].choice("`tool`", tuple(sorted(policy.catalog.tools))))


def _check_receiver(stated: Value, chain: tuple[str, ...], handing_on: HandingOn) -> None:
    """The chain is asked with the receiver (when it opens its branch), or without (before)."""
    before = chain[:-1] if chain[-1] == handing_on.receiver else chain
    if before[-1:] != (handing_on.giver,) or handing_on.receiver in before:
        stated.refuse("`chain` ends with `from` of the hand-off, or with `from` and then `to`.")
    if len(before) >= MAX_CHAIN:
        stated.refuse(f"A chain has at most {MAX_CHAIN} workloads, `to` included.")


def _spiffe_id(value: Value, what: str) -> str:
    try:
        return str(parse_spiffe_id(value.text(what)))
    except StepgrantError as error:
        value.refuse(f"{error}.")


def _subject(value: Value, policy: LoadedPolicySet) -> Subject | Denial:
    """The user that a case states: `iss`, `sub`, and declared claims beside them."""
    declared = policy.catalog.subject_claims.fields
    keys = value.section("`subject`", required=("iss", "sub"), optional=tuple(sorted(declared)))
    try:
        of = SubjectId(keys["iss"].text("`iss`"), keys["sub"].text("`sub`"))
        claims = from_python({name: _plain(keys[name]) for name in keys if name not in {"iss", "sub"}})
    except StepgrantError as error:
        value.refuse(f"{error}.")
    subject = Subject(of, CASE_FOREVER, claims if isinstance(claims, dict) else {}, signed_by=b"")
    prepared = policy.catalog.prepare_subject(subject)
    return prepared if isinstance(prepared, Denial) else subject


def _names(value: Value | None, what: str, known: frozenset[str]) -> frozenset[str]:
    if value is None:
        return frozenset()
    return frozenset(item.choice(what, tuple(sorted(known))) for item in value.items(what, most=MAX_LISTED))


def _plain(value: Value) -> object:
    if isinstance(value.data, tuple):
        return [_plain(item) for item in value.data]
    if isinstance(value.data, dict):
        return {name: _plain(item) for name, item in value.data.items()}
    plain: object = value.data
    return plain


def _time(value: Value | None) -> datetime:
    if value is None:
        return CASE_NOW
    try:
        return datetime.strptime(value.text("`now`"), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        value.refuse('`now` is not a quoted UTC time such as "2026-01-01T12:00:00Z".')
