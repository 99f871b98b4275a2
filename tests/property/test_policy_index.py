"""A decision over the policies that the index names is the decision over all of them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from stepgrant_gateway.core.decision import Permitted
from stepgrant_gateway.policy.load import load_files
from tests.kit.policy import AGENT, ORDER, REFUND, TRIAGE, asking, handing_on, opening, with_cedar

ROOT = "spiffe://dev.stepgrant.test/agent"
WORKLOADS = [ROOT, AGENT, f"{AGENT}/7", f"{AGENT}-2", f"{ROOT}/triage"]
ACTIONS = ["orders.get", "orders.search", "orders.refund", "mail.read", "mail.send", "task.open", "task.hand_off"]
ACTION_GROUPS = ["read", "write", "egress", "orders.*", "mail.*"]
TARGETS = ["pg://orders", f"pg://orders/{ORDER}", "imap://support", "mail://outbox"]
ARGUMENTS = {
    "orders.get": {"order_id": ORDER},
    "orders.search": {"query": "x"},
    "orders.refund": {"order_id": ORDER, "amount": 40},
    "mail.read": {"mailbox": "support"},
    "mail.send": {"to": ["jo@x.org"], "subject": "s", "body": "b"},
}

workloads = st.sampled_from(WORKLOADS).map('Workload::"{}"'.format)
task_scopes = st.one_of(
    st.builds("principal is Task::{}".format, st.sampled_from(["Refund", "Triage"])),
    st.builds("principal is Task::{} in {}".format, st.sampled_from(["Refund", "Triage"]), workloads),
    st.just('principal in TaskGroup::"support"'),
)
any_scopes = st.one_of(task_scopes, st.just("principal"), workloads.map("principal in {}".format))
one_action = st.sampled_from(ACTIONS).map('action == Action::"{}"'.format)
group_action = st.sampled_from(ACTION_GROUPS).map('action in Action::"{}"'.format)
list_action = st.lists(st.sampled_from(ACTIONS + ACTION_GROUPS), min_size=1, max_size=3).map(
    lambda names: "action in [" + ", ".join(f'Action::"{name}"' for name in names) + "]"
)
actions = st.one_of(one_action, group_action, list_action)
resources = st.one_of(
    st.just("resource"),
    st.sampled_from(["orders", "production", "mail"]).map('resource in TargetGroup::"{}"'.format),
    st.sampled_from(TARGETS).map('resource == Target::"{}"'.format),
    st.just('resource is Target in TargetGroup::"orders"'),
)
# The second errs for a task with denials; behind the first it is not always reached.
parts = st.one_of(
    workloads.map("principal in {}".format),
    st.just("context.task.denials + 9223372036854775806 > 0"),
    st.just("context.task.denials < 2"),
    st.just('context.task.labels.contains(Label::"untrusted")'),
    # What a decision leaves out of the context, since nobody reads it, must make no difference.
    st.just('context.step has parent_tool || context.peer.method == "x509"'),
    st.just("context.budget.mails < 2"),
    st.just("!(context has subject) && context.task has denials"),
    st.just("context.task == context.task && [context.step.depth].contains(1)"),
    st.just(f'context has hand_off && context.hand_off.to in Workload::"{AGENT}"'),
    st.just('context.now > datetime("2026-01-01") && context.task.age < duration("1h")'),
)
conditions = st.lists(parts, max_size=3).map(lambda found: "".join(f" when {{ {part} }}" for part in found))
permits = st.builds('@unbound("any") permit ({}, {}, {}){};'.format, task_scopes, actions, resources, conditions)
forbids = st.builds(
    "forbid ({}, {}, {}){};".format, any_scopes, st.one_of(actions, st.just("action")), resources, conditions
)
policy_sets = st.lists(st.one_of(permits, permits, forbids), min_size=1, max_size=12)


def assembled(policies: list[str]):
    """The set without those of the policies that load refuses (a scope that no request can have)."""
    from stepgrant_gateway.core.errors import PolicyRefusedError

    numbered = [f'@id("p{number}") {policy}' for number, policy in enumerate(policies)]
    try:
        return load_files(with_cedar(*numbered))
    except PolicyRefusedError as error:
        wrong = {finding.line for finding in error.findings}
        return load_files(with_cedar(*(text for line, text in enumerate(numbered, 1) if line not in wrong)))


@settings(deadline=None, max_examples=60)
@given(
    policies=policy_sets,
    workload=st.sampled_from(WORKLOADS),
    task=st.sampled_from([REFUND, TRIAGE]),
    denials=st.sampled_from([0, 1, 3]),
    labels=st.sampled_from([frozenset(), frozenset({"untrusted"})]),
)
def test_evaluation_with_and_without_the_index_is_equal(policies, workload, task, denials, labels):
    policy = assembled(policies)
    task = replace(task, workload=workload, denials=denials, labels=labels)
    questions = [opening(task), handing_on(f"{AGENT}/7", task)]
    questions += [asking(policy, tool, arguments, task) for tool, arguments in ARGUMENTS.items()]
    for question in questions:
        indexed = policy.evaluate(question)
        whole = policy.evaluate_without_index(question)
        assert indexed == whole
        if isinstance(indexed, Permitted):
            assert indexed.permits
