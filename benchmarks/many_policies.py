"""What a decision costs among 100 policies and among many, in this process: the index by scope makes it the same."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

from effort import Effort
from figures import Duel, Findings

from stepgrant.ids import ulid
from stepgrant.intent import parse_object
from stepgrant_gateway.core.decision import Call, Permitted, Question, StepFacts, TaskFacts
from stepgrant_gateway.policy.directory import read_directory
from stepgrant_gateway.policy.load import load_files
from stepgrant_gateway.policy.sets import LoadedPolicySet

FEW: Final = 100
"""Policies of the set that larger ones are compared with."""

_POLICY: Final = Path(__file__).parents[1] / "examples" / "demo" / "policy"
_AGENT: Final = "spiffe://dev.stepgrant.test/agent/support"
# One for each of as many agents: what a large installation is made of.
_ONE: Final = """@id("many-{0}") permit (
  principal is Task::Refund in Workload::"spiffe://dev.stepgrant.test/agent/many/{0}",
  action == Action::"orders.search",
  resource in TargetGroup::"orders");
"""


def policy_of(count: int) -> LoadedPolicySet:
    """The demo's policy, grown to about `count` policies, through all that loading checks."""
    many = "".join(_ONE.format(number) for number in range(count))
    return load_files({**read_directory(_POLICY), "many.cedar": many.encode()})


async def measure(_directory: Path, effort: Effort) -> Findings:
    """Decisions among each number of policies against decisions among `FEW`, and what loading so many takes."""
    found = Findings()
    few = policy_of(FEW)
    for count in effort.policies:
        begun = time.perf_counter()
        many = policy_of(count)
        found.counts[f"load_{count}_policies_s"] = time.perf_counter() - begun
        found.duels[f"decision_{count}_policies"] = duel(few, many, effort)
        del many
    return found


def duel(few: LoadedPolicySet, many: LoadedPolicySet, effort: Effort) -> Duel:
    """Decisions over `many` against decisions over `few`, in turns that begin with each in turn."""
    asked_of_many, asked_of_few = _question(many), _question(few)
    result = Duel()
    contestants = ((many, asked_of_many, result.ours), (few, asked_of_few, result.theirs))
    for turn in range(effort.turns):
        for policy, question, times in contestants if turn % 2 else reversed(contestants):
            times.append(_timed(policy, question, effort.decisions))
    return result


def _question(policy: LoadedPolicySet) -> Question:
    call = policy.catalog.prepare_call("orders.search", parse_object('{"limit":5,"query":"shoes"}'))
    assert isinstance(call, Call)
    now = datetime.now(UTC)
    parameters = parse_object('{"customer":"jo@x.org","order_id":"ord_00000042"}')
    task = TaskFacts(ulid(now, bytes(10)), "Refund", _AGENT, parameters)
    budget = {name: Decimal(0) for name in policy.catalog.budgets}
    question = Question(task, StepFacts(1, None, frozenset({_AGENT})), call, budget, "x509", now)
    assert isinstance(policy.evaluate(question), Permitted)
    return question


def _timed(policy: LoadedPolicySet, question: Question, decisions: int) -> list[float]:
    times = []
    for _ in range(decisions):
        begun = time.perf_counter()
        policy.evaluate(question)
        times.append(time.perf_counter() - begun)
    return times
