"""What a case states beside what it asks: who hands on to whom, and the chain."""

from datetime import timedelta

import pytest

from stepgrant_gateway.core.decision import HandingOn
from stepgrant_gateway.core.errors import PolicyRefusedError
from stepgrant_gateway.policy.load import load_policy
from stepgrant_gateway.policy.premises import CASE_NOW, Given, read_given, read_json
from stepgrant_gateway.policy.sets import LoadedPolicySet
from stepgrant_gateway.policy.yaml_reader import read_yaml
from tests.kit.handing import PAYMENTS
from tests.kit.policy import AGENT, SUPPORT

A, B, C = (f"spiffe://dev.stepgrant.test/agent/{name}" for name in "abc")


@pytest.fixture(scope="module")
def policy() -> LoadedPolicySet:
    return load_policy(SUPPORT)


def given(policy: LoadedPolicySet, text: str, workload: str = AGENT) -> Given:
    task = f'{{type: Refund, workload: "{workload}", parameters: {{order_id: ord_00000042, customer: jo@x.org}}}}'
    value = read_yaml("tests/a.yaml", f"task: {task}\ngiven: {{{text}}}\n".encode()).data
    read = read_given(value["task"], value["given"], policy)
    assert isinstance(read, Given)
    return read


def listed(*workloads: str) -> str:
    return "chain: [" + ", ".join(f'"{workload}"' for workload in workloads) + "]"


def handed(giver: str, receiver: str, tool: str = "orders.refund") -> str:
    return f'hand_off: {{from: "{giver}", to: "{receiver}", tool: {tool}}}'


def test_what_is_not_stated_is_as_at_the_beginning_of_a_task(policy: LoadedPolicySet):
    read = given(policy, "")
    assert (read.asked, read.chain, read.handing_on) == ((AGENT,), {AGENT}, None)
    assert (read.now, read.facts.age, read.facts.workload) == (CASE_NOW, timedelta(0), AGENT)
    assert (read.facts.completed, read.budget, read.dispatcher) == (frozenset(), {}, "")


def test_a_chain_is_asked_from_its_origin_on(policy: LoadedPolicySet):
    assert given(policy, listed(A, B, C, AGENT)).asked == (A, B, C, AGENT)
    assert given(policy, listed(A, AGENT)).chain == {A, AGENT}


def test_all_that_have_part_in_a_hand_off_are_its_chain(policy: LoadedPolicySet):
    read = given(policy, handed(AGENT, PAYMENTS))
    assert (read.asked, read.chain) == ((AGENT,), {AGENT, PAYMENTS})
    assert read.handing_on == HandingOn(AGENT, PAYMENTS, "orders.refund")
    assert given(policy, handed(A, B)).chain == {AGENT, A, B}
    for chain, workload in (((A, B), B), ((A, B, C), C)):
        read = given(policy, f"{listed(*chain)}, {handed(B, C)}", workload)
        assert (read.asked, read.chain) == (chain, {A, B, C})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (listed(), "ends with the `workload` of the task"),
        (listed(AGENT, A), "ends with the `workload` of the task"),
        (listed(A, B, A, AGENT), "names a workload twice"),
        (listed("a", AGENT), "does not begin with spiffe://"),
        (listed(A, B, C, PAYMENTS, AGENT), "has 5 entries, more than 4"),
        (handed(A, A), "Nobody hands on to itself"),
        (handed(A, "b"), "does not begin with spiffe://"),
        (handed(A, B, "orders.gte"), "Did you mean orders.get?"),
        ("hand_off: true", "`hand_off` is true or false"),
        (f'hand_off: {{from: "{A}", to: "{B}"}}', "lacks `tool`"),
        (f"{listed(A, AGENT)}, {handed(A, B)}", "`chain` ends with `from` of the hand-off"),
        (f"{listed(A, B, AGENT)}, {handed(B, A)}", "`chain` ends with `from` of the hand-off"),
        (f"{listed(A, B, AGENT)}, {handed(AGENT, A)}", "`chain` ends with `from` of the hand-off"),
        (f"{listed(A, AGENT)}, {handed(B, AGENT)}", "`chain` ends with `from` of the hand-off"),
        (f"{listed(A, B, C, AGENT)}, {handed(AGENT, PAYMENTS)}", "at most 4 workloads, `to` included"),
    ],
)
def test_a_chain_that_no_hand_off_makes_is_refused(policy: LoadedPolicySet, text: str, says: str):
    with pytest.raises(PolicyRefusedError) as refused:
        given(policy, text)
    [finding] = refused.value.findings
    assert says in str(finding)
    assert finding.line == 2


def test_arguments_are_read_as_an_agent_would_send_them():
    assert read_json(read_yaml("a.yaml", b"{a: [1, {b: x}], c: null}"), "`x`") == {"a": [1, {"b": "x"}], "c": None}
    for wrong in (b"[1]", b"{a: 0.10000000000000000001}"):
        with pytest.raises(PolicyRefusedError, match="`x`"):
            read_json(read_yaml("a.yaml", wrong), "`x`")
