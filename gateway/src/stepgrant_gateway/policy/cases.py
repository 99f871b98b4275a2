"""Golden cases: what a directory's own tests say about its decisions, run before it is activated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Final

from stepgrant.errors import Denial, DenialCode
from stepgrant_gateway.core.decision import (
    BY_AGENT,
    Call,
    Permitted,
    PolicyPlace,
    Question,
    Refused,
    StepFacts,
    Verdict,
    all_of,
    refuse_uncounted,
    refuse_unheld,
)
from stepgrant_gateway.core.delegation import violation
from stepgrant_gateway.core.errors import Finding, PolicyRefusedError
from stepgrant_gateway.core.grants import settle_terms
from stepgrant_gateway.policy.expectations import Came, differences, read_expected
from stepgrant_gateway.policy.premises import Given, read_given, read_json
from stepgrant_gateway.policy.sets import LoadedPolicySet
from stepgrant_gateway.policy.yaml_reader import Value, read_yaml

MAX_CASES: Final = 10_000
"""In one file; each costs a decision at every load."""
_WHOLE: Final = ("open", "assign", "hand_off")
"""What a case can ask of a task as a whole."""


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
        case.refuse("A case has either an `intent`, or `open: true`, or `assign: true`, or `hand_off: true`.")
    for name_of in _WHOLE:
        if name_of in keys and not keys[name_of].boolean(f"`{name_of}`"):
            keys[name_of].refuse(f"`{name_of}` is true or is left out.")
    came = _decide(keys, policy)
    wrong = differences(expected, came)
    if wrong:
        said = f" The operator's record would say: {'; '.join(came.errors)}." if came.errors else ""
        yield Finding(case.file, case.line, "", f'The case "{name[:128]}" does not hold: {"; ".join(wrong)}.{said}')


def _decide(keys: Mapping[str, Value], policy: LoadedPolicySet) -> Came:
    given = read_given(keys["task"], keys.get("given"), policy)
    if isinstance(given, Denial):
        return _denied(given)
    _check_parts(keys, given)
    if "intent" in keys:
        return _decide_step(keys["intent"], given, policy)
    step = StepFacts()
    if given.handing_on is not None:
        # Each hand-off before this one has gone at least one step further down.
        step = StepFacts(max(1, len({*given.asked} - {given.handing_on.receiver})), None, given.chain)
    question = replace(_question(given, step, None, policy), assigning="assign" in keys, handing_on=given.handing_on)
    verdict = _verdict(question, given, policy)
    if isinstance(verdict, Refused):
        return _refused(verdict)
    return Came(granted=True, policies=_ids(tuple(permit.place for permit in verdict.permits)))


def _check_parts(keys: Mapping[str, Value], given: Given) -> None:
    """Refuses a `given` that has no part in what the case asks, or lacks one that it must have."""
    if "assign" in keys and not given.dispatcher:
        keys["assign"].refuse("Somebody assigns: name the `dispatcher` in `given`.")
    if "hand_off" in keys and given.handing_on is None:
        keys["hand_off"].refuse("Say what is handed on: `hand_off: {from: ..., to: ..., tool: ...}` in `given`.")
    if "hand_off" not in keys and given.handing_on is not None:
        keys["given"].refuse("A `hand_off` has a part in `hand_off: true` only.")
    if ("open" in keys or "assign" in keys) and len(given.asked) > 1:
        keys["given"].refuse("A `chain` has a part in an `intent` and in `hand_off: true` only.")
    if ("open" in keys or "hand_off" in keys) and given.dispatcher and given.vouched_by == BY_AGENT:
        keys["given"].refuse("A `dispatcher` has a part in an opening only with `vouched_by: assignment`.")


def _decide_step(intent: Value, given: Given, policy: LoadedPolicySet) -> Came:
    keys = intent.section("`intent`", required=("tool", "arguments"), optional=("ttl", "parent"))
    wanted: timedelta | None = keys["ttl"].duration("`ttl`") if "ttl" in keys else None
    call = _call(keys, given.facts.task_type, policy)
    if isinstance(call, Denial):
        return _denied(call)
    step = StepFacts(depth=1, chain=given.chain)
    if len(given.asked) > 1 and "parent" not in keys:
        intent.refuse("A step of a branch lies below the step that was handed on: name that as its `parent`.")
    if "parent" in keys:
        parent_keys = keys["parent"].section("`parent`", required=("tool", "arguments"))
        parent = _call(parent_keys, given.facts.task_type, policy)
        if isinstance(parent, Denial):
            keys["parent"].refuse(f"The parent itself is denied ({parent.code.value}): {parent.reason}")
        reason = "this step may have no children."
        outside = violation(parent.envelope, call.tool.name, call.arguments) if parent.envelope else reason
        if outside is not None:
            return Came(granted=False, code=DenialCode.OUTSIDE_ENVELOPE)
        step = StepFacts(max(2, len(given.asked)), parent.tool.name, step.chain)
    uncounted = refuse_uncounted(policy.catalog.budgets, call, given.subject)
    if uncounted is not None:
        return _refused(uncounted)
    verdict = _verdict(_question(given, step, call, policy), given, policy)
    if isinstance(verdict, Permitted):
        unheld = refuse_unheld(call, given.peer)
        if unheld is not None:
            return _refused(unheld)
        terms = settle_terms(verdict, call, wanted)
        return Came(True, None, "", terms.tier, terms.ttl, terms.uses, _ids(terms.places))
    return _refused(verdict)


def _call(keys: Mapping[str, Value], task_type: str, policy: LoadedPolicySet) -> Call | Denial:
    tool = keys["tool"].text("`tool`")
    arguments = read_json(keys["arguments"], "`arguments`")
    if tool not in policy.tools_for(task_type):
        return Denial(DenialCode.NO_PERMIT, "no policy permits this.", "")
    return policy.catalog.prepare_call(tool, arguments)


def _verdict(question: Question, given: Given, policy: LoadedPolicySet) -> Verdict:
    """As in a running gateway: once for each workload of the chain, and all must allow."""
    if len(given.asked) == 1:
        return policy.evaluate(question)
    return all_of(_of_one(question, workload, policy) for workload in given.asked)


def _of_one(question: Question, workload: str, policy: LoadedPolicySet) -> Verdict:
    verdict = policy.evaluate(replace(question, task=replace(question.task, workload=workload)))
    if isinstance(verdict, Permitted):
        return verdict
    return replace(verdict, errors=(*verdict.errors, f"refused for {workload}, one of the chain"))


def _question(given: Given, step: StepFacts, call: Call | None, policy: LoadedPolicySet) -> Question:
    budget = _budget(given, call, policy)
    return Question(
        given.facts, step, call, budget, given.peer, given.now, given.vouched_by, given.subject, given.dispatcher
    )


def _budget(given: Given, call: Call | None, policy: LoadedPolicySet) -> Mapping[str, Decimal]:
    """As in a running gateway: what was spent before, and what this step adds."""
    deltas: Mapping[str, Decimal] = call.deltas if call is not None else {}
    return {name: given.budget.get(name, Decimal(0)) + deltas.get(name, Decimal(0)) for name in policy.catalog.budgets}


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
