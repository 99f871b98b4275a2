"""Handing on never widens: what a chain is granted, each workload of it would be granted alone, and on no lesser terms."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import cache
from itertools import pairwise

from hypothesis import event, given
from hypothesis import strategies as st

from stepgrant_gateway.core.decision import Permitted, Question, Refused, Verdict, all_of
from stepgrant_gateway.core.grants import Terms, settle_terms
from stepgrant_gateway.policy.load import load_files
from stepgrant_gateway.policy.sets import LoadedPolicySet
from tests.kit.policy import CUSTOMER, ORDER, REFUND, asking, handing_on, with_cedar

ROOT = "spiffe://dev.stepgrant.test/agent"
WORKLOADS = [ROOT, f"{ROOT}/a", f"{ROOT}/a/1", f"{ROOT}/b", f"{ROOT}/b/1", f"{ROOT}/c"]
SCOPES = [f'is Task::Refund in Workload::"{ROOT}/{name}"' for name in "abc"]
MAIL = {"to": [CUSTOMER], "subject": "s", "body": "b"}
ACTIONS = {"orders.get": {"order_id": ORDER}, "orders.search": {"query": "x"}, "mail.send": MAIL, "task.hand_off": None}
TERMS = ["", '@ttl("9s")', '@uses("2")', '@ttl("5s") @uses("3")', '@ttl("20s")']


@cache
def policy() -> LoadedPolicySet:
    """Permits and forbids whose reach overlaps in part, by workload and by how often the task was denied."""
    permits, forbids = [], []
    for number, action in enumerate(ACTIONS):
        about = f'action == Action::"{action}", resource'
        anybody = f'principal in Workload::"{ROOT}" && context.task.denials < 4'
        permits.append(f'permit (principal in TaskGroup::"support", {about}) when {{ {anybody} }};')
        for place, scope in enumerate(SCOPES):
            permits.append(f"permit (principal {scope}, {about}) when {{ context.task.denials != {number + place} }};")
        wall = f'context.task.labels.contains(Label::"untrusted") || context.step.depth > {3 + number % 2}'
        forbids.append(f'forbid (principal in Workload::"{WORKLOADS[number + 1]}", {about}) when {{ {wall} }};')
    forbids.append(
        f'forbid (principal in Workload::"{ROOT}/b", action, resource) when {{ context.task.denials == 3 }};'
    )
    noted = [f'@id("p{n}") @unbound("test") {TERMS[n % len(TERMS)]} {permit}' for n, permit in enumerate(permits)]
    return load_files(with_cedar(*noted, *(f'@id("f{n}") {forbid}' for n, forbid in enumerate(forbids))))


def question_of(action: str, denials: int, labels: frozenset[str], chain: list[str]) -> Question:
    """About the last of the chain; a hand-off is to it."""
    task, arguments = replace(REFUND, denials=denials, labels=labels), ACTIONS[action]
    if arguments is None:
        asked = handing_on(chain[-1], task, giver=chain[-2])
    else:
        asked = asking(policy(), action, arguments, task)
    return replace(asked, step=replace(asked.step, depth=len(chain), chain=frozenset(chain)))


def told(question: Question, workload: str) -> Verdict:
    """What this workload alone is told."""
    return policy().evaluate(replace(question, task=replace(question.task, workload=workload)))


def no_more(less: Terms, more: Terms) -> bool:
    """True if `less` grants nothing that `more` does not."""
    uses = more.uses is None or (less.uses is not None and less.uses <= more.uses)
    return uses and less.ttl <= more.ttl and less.tier is more.tier


@given(
    action=st.sampled_from(sorted(ACTIONS)),
    chain=st.builds(lambda order, length: order[:length], st.permutations(WORKLOADS), st.integers(2, 4)),
    denials=st.integers(0, 5),
    labels=st.sampled_from([frozenset[str](), frozenset({"untrusted"})]),
    wanted=st.sampled_from([None, timedelta(seconds=7)]),
)
def test_inv_09_a_chain_is_granted_no_more_than_any_workload_of_it(
    action: str, chain: list[str], denials: int, labels: frozenset[str], wanted: timedelta | None
) -> None:
    question = question_of(action, denials, labels, chain)
    verdicts = [told(question, workload) for workload in chain]
    # What the first one of the chain, the first two, ... are told together.
    upto = [all_of(verdicts[:count]) for count in range(1, len(chain) + 1)]
    event(f"{sum(isinstance(verdict, Permitted) for verdict in verdicts)} of {len(chain)} may")
    if isinstance(upto[-1], Refused):
        assert upto[-1] == next(verdict for verdict in verdicts if isinstance(verdict, Refused))
        assert any(isinstance(verdict, Refused) for verdict in verdicts)
        return
    allowed = [verdict for verdict in [*verdicts, *upto] if isinstance(verdict, Permitted)]
    assert len(allowed) == 2 * len(chain)
    if question.call is not None:
        whole = settle_terms(upto[-1], question.call, wanted)
        assert all(no_more(whole, settle_terms(verdict, question.call, wanted)) for verdict in allowed)
        shorter = [settle_terms(verdict, question.call, wanted) for verdict in upto if isinstance(verdict, Permitted)]
        assert all(no_more(longer, before) for before, longer in pairwise(shorter))
