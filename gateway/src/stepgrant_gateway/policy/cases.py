"""Golden cases: what a directory's own tests say about its decisions, run before it is activated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from stepgrant.errors import Denial, DenialCode, StepgrantError
from stepgrant.intent import Json, from_python
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.subject import SubjectId
from stepgrant_gateway.core.decision import (
    BY_AGENT,
    BY_ASSIGNMENT,
    VOUCHERS,
    Call,
    Permitted,
    PolicyPlace,
    Question,
    Refused,
    StepFacts,
    TaskFacts,
    refuse_uncounted,
    refuse_unheld,
)
from stepgrant_gateway.core.delegation import violation
from stepgrant_gateway.core.errors import Finding, PolicyRefusedError
from stepgrant_gateway.core.grants import settle_terms
from stepgrant_gateway.core.principal import METHOD_X509, METHODS, Subject
from stepgrant_gateway.policy.expectations import Came, differences, read_expected
from stepgrant_gateway.policy.findings import refused
from stepgrant_gateway.policy.sets import LoadedPolicySet
from stepgrant_gateway.policy.yaml_reader import Value, read_yaml

MAX_CASES: Final = 10_000
"""In one file; each costs a decision at every load."""
MAX_LISTED: Final = 1000
CASE_NOW: Final = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
"""The time of a case that names none: a decision over the same case is the same on every day."""
CASE_FOREVER: Final = datetime(9999, 12, 31, tzinfo=UTC)
"""The end of the subject token of a case: time plays no part there."""
CASE_TASK_ID: Final = "01JGH3Z5R0000000000000CASE"
_WHOLE: Final = ("open", "assign")
"""What a case can ask of a task as a whole."""


@dataclass(frozen=True, slots=True)
class _Given:
    """What came before, and the task as its facts."""

    facts: TaskFacts
    budget: Mapping[str, Decimal]
    peer: str
    now: datetime
    subject: Subject | None
    vouched_by: str
    dispatcher: str


def count_cases(files: Mapping[str, bytes]) -> int:
    """How many cases a directory has; those of files that cannot be read do not count."""
    count = 0
    for name, content in files.items():
        if name.startswith("tests/"):
            try:
                count += len(read_yaml(name, content).items("the file", most=MAX_CASES))
            except PolicyRefusedError:
                continue
    return count


def run_cases(files: Mapping[str, bytes], policy: LoadedPolicySet) -> Iterator[Finding]:
    """A finding for each case that cannot be read, or that comes out differently from what it expects."""
    for name, content in sorted(files.items()):
        if not name.startswith("tests/"):
            continue
        try:
            cases = read_yaml(name, content).items("the file", most=MAX_CASES)
        except PolicyRefusedError as error:
            yield from error.findings
            continue
        for case in cases:
            try:
                yield from _run(case, policy)
            except PolicyRefusedError as error:
                yield from error.findings


def _run(case: Value, policy: LoadedPolicySet) -> Iterator[Finding]:
    keys = case.section("a case", required=("name", "task", "expect"), optional=("given", "intent", *_WHOLE))
    name = keys["name"].text("`name`")
    expected = read_expected(keys["expect"])
    if len({"intent", *_WHOLE} & keys.keys()) != 1:
        case.refuse("A case has either an `intent`, or `open: true`, or `assign: true`.")
    for name_of in _WHOLE:
        if name_of in keys and not keys[name_of].boolean(f"`{name_of}`"):
            keys[name_of].refuse(f"`{name_of}` is true or is left out.")
    came = _decide(keys, policy)
    wrong = differences(expected, came)
    if wrong:
        said = f" The operator's record would say: {'; '.join(came.errors)}." if came.errors else ""
        yield Finding(case.file, case.line, "", f'The case "{name[:128]}" does not hold: {"; ".join(wrong)}.{said}')


def _decide(keys: Mapping[str, Value], policy: LoadedPolicySet) -> Came:
    given = _given(keys["task"], keys.get("given"), policy)
    if isinstance(given, Denial):
        return _denied(given)
    if "intent" not in keys:
        assigning = "assign" in keys
        if assigning and not given.dispatcher:
            keys["assign"].refuse("Somebody assigns: name the `dispatcher` in `given`.")
        if given.dispatcher and not assigning and given.vouched_by == BY_AGENT:
            keys["given"].refuse("A `dispatcher` has a part in an opening only with `vouched_by: assignment`.")
        question = replace(_question(given, StepFacts(), None, policy), assigning=assigning)
        verdict = policy.evaluate(question)
        if isinstance(verdict, Refused):
            return _refused(verdict)
        return Came(granted=True, policies=_ids(tuple(permit.place for permit in verdict.permits)))
    return _decide_step(keys["intent"], given, policy)


def _decide_step(intent: Value, given: _Given, policy: LoadedPolicySet) -> Came:
    keys = intent.section("`intent`", required=("tool", "arguments"), optional=("ttl", "parent"))
    wanted: timedelta | None = keys["ttl"].duration("`ttl`") if "ttl" in keys else None
    call = _call(keys, given.facts.task_type, policy)
    if isinstance(call, Denial):
        return _denied(call)
    step = StepFacts(depth=1, chain=frozenset({given.facts.workload}))
    if "parent" in keys:
        parent_keys = keys["parent"].section("`parent`", required=("tool", "arguments"))
        parent = _call(parent_keys, given.facts.task_type, policy)
        if isinstance(parent, Denial):
            keys["parent"].refuse(f"The parent itself is denied ({parent.code.value}): {parent.reason}")
        reason = "this step may have no children."
        outside = violation(parent.envelope, call.tool.name, call.arguments) if parent.envelope else reason
        if outside is not None:
            return Came(granted=False, code=DenialCode.OUTSIDE_ENVELOPE)
        step = StepFacts(2, parent.tool.name, step.chain)
    uncounted = refuse_uncounted(policy.catalog.budgets, call, given.subject)
    if uncounted is not None:
        return _refused(uncounted)
    verdict = policy.evaluate(_question(given, step, call, policy))
    if isinstance(verdict, Permitted):
        unheld = refuse_unheld(call, given.peer)
        if unheld is not None:
            return _refused(unheld)
        terms = settle_terms(verdict, call, wanted)
        return Came(True, None, "", terms.tier, terms.ttl, terms.uses, _ids(terms.places))
    return _refused(verdict)


def _call(keys: Mapping[str, Value], task_type: str, policy: LoadedPolicySet) -> Call | Denial:
    tool = keys["tool"].text("`tool`")
    arguments = _json(keys["arguments"], "`arguments`")
    if tool not in policy.tools_for(task_type):
        return Denial(DenialCode.NO_PERMIT, "no policy permits this.", "")
    return policy.catalog.prepare_call(tool, arguments)


def _given(task: Value, given: Value | None, policy: LoadedPolicySet) -> _Given | Denial:
    keys = task.section("`task`", required=("type", "workload"), optional=("parameters", "subject"))
    workload = _spiffe_id(keys["workload"], "`workload`")
    task_type = keys["type"].choice("`type`", tuple(sorted(policy.catalog.task_types)))
    parameters = policy.catalog.prepare_task(
        task_type, _json(keys["parameters"], "`parameters`") if "parameters" in keys else {}
    )
    if isinstance(parameters, Denial):
        return parameters
    subject = _subject(keys["subject"], policy) if "subject" in keys else None
    if isinstance(subject, Denial):
        return subject
    optional = (
        "completed",
        "reported",
        "labels",
        "denials",
        "age",
        "budget",
        "peer",
        "now",
        "vouched_by",
        "dispatcher",
    )
    before = given.section("`given`", optional=optional) if given is not None else {}
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
    return _Given(facts, budget, peer, _time(before.get("now")), subject, vouched_by, dispatcher)


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


def _question(given: _Given, step: StepFacts, call: Call | None, policy: LoadedPolicySet) -> Question:
    budget = _budget(given, call, policy)
    return Question(
        given.facts, step, call, budget, given.peer, given.now, given.vouched_by, given.subject, given.dispatcher
    )


def _budget(given: _Given, call: Call | None, policy: LoadedPolicySet) -> Mapping[str, Decimal]:
    """As in a running gateway: what was spent before, and what this step adds."""
    deltas: Mapping[str, Decimal] = call.deltas if call is not None else {}
    return {name: given.budget.get(name, Decimal(0)) + deltas.get(name, Decimal(0)) for name in policy.catalog.budgets}


def _names(value: Value | None, what: str, known: frozenset[str]) -> frozenset[str]:
    if value is None:
        return frozenset()
    return frozenset(item.choice(what, tuple(sorted(known))) for item in value.items(what, most=MAX_LISTED))


def _json(value: Value, what: str) -> dict[str, Json]:
    value.entries(what, most=MAX_LISTED)
    try:
        parsed = from_python(_plain(value))
    except StepgrantError as error:
        raise refused(value.file, value.line, f"{what}: {error}.") from None
    return parsed if isinstance(parsed, dict) else {}


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


def _ids(places: tuple[PolicyPlace, ...]) -> frozenset[str]:
    return frozenset(place.policy_id for place in places)


def _denied(denial: Denial) -> Came:
    return Came(granted=False, code=denial.code, argument=denial.argument)


def _refused(verdict: Refused) -> Came:
    return Came(
        granted=False,
        code=verdict.code,
        argument=verdict.argument,
        policies=_ids(verdict.places),
        errors=verdict.errors,
    )
