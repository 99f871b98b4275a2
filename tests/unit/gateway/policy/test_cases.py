from pathlib import Path

import pytest

from stepgrant_gateway.policy.cases import count_cases, run_cases
from stepgrant_gateway.policy.load import load_policy
from stepgrant_gateway.policy.sets import LoadedPolicySet
from tests.kit.assigned import write_assigned
from tests.kit.handing import PAYMENTS, write_handed
from tests.kit.policy import AGENT, SUPPORT
from tests.kit.subjects import subject_policy

TASK = (
    'task: {type: Refund, workload: "spiffe://dev.stepgrant.test/agent/support", '
    "parameters: {order_id: ord_00000042, customer: jo@x.org}}"
)
GET = "intent: {tool: orders.get, arguments: {order_id: ord_00000042}}"
REFUND = "intent: {tool: orders.refund, arguments: {order_id: ord_00000042, amount: 40}}"
GRANTED = "expect: {decision: granted}"
EITHER = "either an `intent`, or `open: true`, or `assign: true`, or `hand_off: true`"


@pytest.fixture(scope="module")
def policy() -> LoadedPolicySet:
    return load_policy(SUPPORT)


def run(policy: LoadedPolicySet, *lines: str) -> list[str]:
    """One case of these lines."""
    text = "# cases\n- name: it\n" + "".join(f"  {line}\n" for line in lines)
    return [str(finding) for finding in run_cases({"tests/a.yaml": text.encode()}, policy)]


def test_a_case_says_who_vouches_for_what_is_opened_and_who_assigns(tmp_path: Path):
    desk = load_policy(write_assigned(tmp_path))
    by = 'dispatcher: "spiffe://dev.stepgrant.test/desk/tickets"'
    denied = "expect: {decision: denied, code: no_permit}"
    assert not run(desk, TASK, f"given: {{vouched_by: assignment, {by}}}", "open: true", GRANTED)
    assert not run(desk, TASK, "given: {vouched_by: agent}", "open: true", denied)
    assert not run(desk, TASK, f"given: {{{by}}}", "assign: true", GRANTED)
    assert not run(desk, TASK, 'given: {dispatcher: "spiffe://dev.stepgrant.test/agent"}', "assign: true", denied)
    for given, kind, says in (
        ("given: {vouched_by: assignment}", "open: true", "name the `dispatcher`"),
        (f"given: {{{by}}}", "open: true", "only with `vouched_by: assignment`"),
        ("given: {peer: x509}", "assign: true", "name the `dispatcher` in `given`"),
        ("given: {dispatcher: desk}", "assign: true", "does not begin with spiffe://"),
        ("given: {vouched_by: asignment}", "open: true", "Did you mean assignment?"),
        (f"given: {{{by}}}", "assign: false", "`assign` is true or is left out"),
    ):
        [found] = run(desk, TASK, given, kind, GRANTED)
        assert says in found


def test_a_case_states_a_subject_and_what_it_has_not_said_is_not_there(tmp_path: Path):
    policy = load_policy(subject_policy(tmp_path / "policy"))
    jo = 'subject: {iss: "https://login.acme.test", sub: u-17'
    sales, refund = TASK[:-1] + f", {jo}, department: sales}}}}", "given: {completed: [orders.get]}"
    assert (
        run(
            policy,
            sales,
            "open: true",
            "expect: {decision: denied, code: forbidden, policies: [users-of-support-only]}",
        )
        == []
    )
    user = TASK[:-1] + f", {jo}, department: support}}}}"
    assert run(policy, user, "open: true", GRANTED) == []
    assert run(policy, user, refund, REFUND, GRANTED) == []
    assert run(policy, TASK, refund, REFUND, "expect: {decision: denied, code: subject_required}") == []
    misfit = TASK[:-1] + f", {jo}, department: 5}}}}"
    assert run(policy, misfit, GET, "expect: {decision: denied, code: subject_invalid, argument: department}") == []
    assert "role" in "".join(run(policy, TASK[:-1] + f", {jo}, role: x}}}}", GET, GRANTED))
    assert "https URL" in "".join(run(policy, TASK[:-1] + ", subject: {iss: acme, sub: x}}", GET, GRANTED))


@pytest.mark.parametrize(
    "lines",
    [
        (TASK, GET, "expect: {decision: granted, tier: routine, ttl: 30s, uses: 1, policies: [refund-reads-an-order]}"),
        (TASK, GET[:-1] + ", ttl: 3s}", "expect: {decision: granted, ttl: 3s}"),
        (TASK, "given: {completed: [orders.get]}", REFUND, GRANTED),
        (TASK, "given: {completed: [orders.get], budget: {refunds: 460}}", REFUND, GRANTED),
        (TASK, "given: {completed: [orders.get], budget: {refunds: 460.01}}", REFUND, "expect: {decision: denied}"),
        (TASK, "given: {reported: [orders.get]}", REFUND, "expect: {decision: denied, code: no_permit}"),
        (TASK, "given: {denials: 20}", REFUND, "expect: {decision: denied, code: forbidden, policies: [enough-denials]}"),
        (TASK, "given: {age: 5m, now: \"2026-02-01T00:00:00Z\"}", GET, GRANTED),
        (TASK, "given: {peer: jwt}", "intent: {tool: mail.read, arguments: {mailbox: support}}", GRANTED),
        (TASK, "given: {peer: jwt}", GET, "expect: {decision: denied, code: certificate_required}"),
        (TASK, "open: true", "expect: {decision: granted, policies: [support-opens-refunds]}"),
        (TASK, "intent: {tool: no.such, arguments: {}}", "expect: {decision: denied, code: no_permit}"),
        (TASK, "intent: {tool: orders.get, arguments: {}}", "expect: {decision: denied, code: arguments_invalid}"),
    ],
)  # fmt: skip
def test_a_case_that_holds_is_silent(policy: LoadedPolicySet, lines: tuple[str, ...]):
    assert run(policy, *lines) == []


def test_a_case_that_does_not_hold_is_found_at_its_line_with_what_came(policy: LoadedPolicySet):
    found = run(policy, TASK, REFUND, GRANTED)
    assert len(found) == 1
    assert found[0].startswith('tests/a.yaml:2: The case "it" does not hold: decision: expected granted, came denied')
    assert "by [refund-the-order]" in found[0]


@pytest.mark.parametrize(
    ("lines", "line", "says"),
    [
        ((TASK, GET), 2, "a case lacks `expect`"),
        ((TASK, GRANTED), 2, EITHER),
        ((TASK, GET, "open: true", GRANTED), 2, EITHER),
        ((TASK, "open: false", GRANTED), 4, "`open` is true or is left out"),
        ((TASK, GET, GRANTED, "expects: 1"), 6, "no key `expects`"),
        ((TASK, "given: {complete: [orders.get]}", GET, GRANTED), 4, "no key `complete`"),
        ((TASK, "given: {completed: [orders.gte]}", GET, GRANTED), 4, "Did you mean orders.get?"),
        ((TASK, "given: {labels: [untrsted]}", GET, GRANTED), 4, "Did you mean untrusted?"),
        ((TASK, "given: {budget: {refund: 1}}", GET, GRANTED), 4, "Did you mean refunds?"),
        ((TASK, "given: {now: yesterday}", GET, GRANTED), 4, "not a quoted UTC time"),
        ((TASK.replace("Refund,", "Refnd,"), GET, GRANTED), 3, "Did you mean Refund?"),
        ((TASK.replace("spiffe://", ""), GET, GRANTED), 3, "does not begin with spiffe://"),
        ((TASK, GET[:-1] + ", purpose: x}", GRANTED), 4, "no key `purpose`"),
        (
            (TASK, "intent: {tool: orders.get, arguments: {order_id: 0.10000000000000000001}}", GRANTED),
            4,
            "not what a double holds",
        ),
        ((TASK, "intent: {tool: orders.get, arguments: [1]}", GRANTED), 4, "`arguments` is a list"),
        ((TASK, GET, "expect: {decision: pending}"), 5, "Approvals are not enforced by this version"),
    ],
)
def test_a_case_that_cannot_be_read_is_found_at_its_line(
    policy: LoadedPolicySet, lines: tuple[str, ...], line: int, says: str
):
    found = run(policy, *lines)
    assert len(found) == 1
    assert found[0].startswith(f"tests/a.yaml:{line}: ")
    assert says in found[0]


CHILD = "intent: {tool: orders.get, arguments: {order_id: %s}, parent: {tool: %s, arguments: {%s}}}"
PARENT = ("orders.refund", "order_id: ord_00000042, amount: 40")


def test_a_child_is_held_to_the_envelope_of_its_parent(policy: LoadedPolicySet):
    outside = "expect: {decision: denied, code: outside_envelope}"
    assert run(policy, TASK, CHILD % ("ord_00000042", *PARENT), GRANTED) == []
    assert run(policy, TASK, CHILD % ("ord_00000043", *PARENT), outside) == []
    assert run(policy, TASK, CHILD % ("ord_00000042", "orders.search", "query: x"), outside) == []
    assert "The parent itself is denied" in run(policy, TASK, CHILD % ("ord_00000042", "orders.refund", ""), outside)[0]


ON = f'hand_off: {{from: "{AGENT}", to: "{PAYMENTS}", tool: orders.refund}}'
CHAIN = f'chain: ["{AGENT}", "{PAYMENTS}"]'
PAYING = TASK.replace(AGENT, PAYMENTS)


@pytest.fixture(scope="module")
def handed(tmp_path_factory: pytest.TempPathFactory) -> LoadedPolicySet:
    return load_policy(write_handed(tmp_path_factory.mktemp("handed")))


def test_a_case_of_a_hand_off_asks_one_workload_or_each_of_a_chain(handed: LoadedPolicySet, policy: LoadedPolicySet):
    denied = "expect: {decision: denied, code: no_permit}"
    assert run(handed, TASK, f"given: {{{ON}}}", "hand_off: true", GRANTED) == []
    assert run(handed, PAYING, f"given: {{{ON}}}", "hand_off: true", GRANTED) == []
    assert run(handed, PAYING, f"given: {{{CHAIN}, {ON}}}", "hand_off: true", GRANTED) == []
    mail = ON.replace("orders.refund", "mail.send")
    assert run(handed, PAYING, f"given: {{{mail}}}", "hand_off: true", GRANTED) == []
    [found] = run(handed, PAYING, f"given: {{{CHAIN}, {mail}}}", "hand_off: true", GRANTED)
    assert f"record would say: refused for {AGENT}, one of the chain." in found
    assert run(policy, TASK, f"given: {{{ON}}}", "hand_off: true", denied) == []


def test_a_step_of_a_chain_is_granted_what_each_of_it_is_and_on_the_least_terms(handed: LoadedPolicySet):
    given, child = f"given: {{{CHAIN}}}", CHILD % ("ord_00000042", *PARENT)
    both = "policies: [refund-reads-an-order, payments-reads-quickly]"
    assert run(handed, TASK, child, "expect: {decision: granted, ttl: 30s, uses: 1}") == []
    assert run(handed, PAYING, given, child, f"expect: {{decision: granted, ttl: 5s, uses: 1, {both}}}") == []
    here, there = f'"{AGENT}", "{PAYMENTS}"', f'"{PAYMENTS}", "{AGENT}"'
    back = given.replace(here, there)
    assert run(handed, TASK, back, child, f"expect: {{decision: granted, ttl: 5s, {both}}}") == []


def test_a_workload_of_a_chain_that_is_forbidden_denies_it(tmp_path: Path):
    directory = write_handed(tmp_path)
    wall = f'@id("wall") forbid (principal in Workload::"{AGENT}", action == Action::"orders.get", resource)'
    (directory / "wall.cedar").write_text(f"{wall} when {{ context.step.depth > 1 }};")
    for of_others in ("handing.yaml", "refund.yaml"):
        (directory / "tests" / of_others).unlink()
    policy, child = load_policy(directory), CHILD % ("ord_00000042", *PARENT)
    denied = "expect: {decision: denied, code: forbidden, policies: [wall]}"
    assert run(policy, PAYING, child, GRANTED) == []
    assert run(policy, PAYING, f"given: {{{CHAIN}}}", child, denied) == []


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ((TASK, "hand_off: true"), "Say what is handed on"),
        ((TASK, f"given: {{{ON}}}", "hand_off: false"), "`hand_off` is true or is left out"),
        ((TASK, f"given: {{{ON}}}", "open: true"), "a part in `hand_off: true` only"),
        ((TASK, f"given: {{{ON}}}", GET), "a part in `hand_off: true` only"),
        ((PAYING, f"given: {{{CHAIN}}}", "open: true"), "A `chain` has a part in an `intent`"),
        ((PAYING, f"given: {{{CHAIN}}}", GET), "name that as its `parent`"),
        ((PAYING, f'given: {{dispatcher: "{AGENT}", {ON}}}', "hand_off: true"), "has a part in an opening only"),
    ],
)
def test_what_has_no_part_in_a_case_is_refused(handed: LoadedPolicySet, lines: tuple[str, ...], says: str):
    [found] = run(handed, *lines, GRANTED)
    assert says in found


def test_one_broken_case_hides_no_other_and_cases_are_counted(policy: LoadedPolicySet):
    text = f"- {{name: a}}\n- name: b\n  {TASK}\n  {REFUND}\n  {GRANTED}\n"
    files = {"tests/a.yaml": text.encode(), "tests/b.yaml": b"]", "a.cedar": b""}
    assert [str(finding)[:15] for finding in run_cases(files, policy)] == [
        "tests/a.yaml:1:",
        "tests/a.yaml:2:",
        "tests/b.yaml:1:",
    ]
    assert count_cases(files) == 2
