"""What Cedar lets through is refused at load, with file, line, what is wrong and the nearest valid name."""

import os
import re
import shutil
from pathlib import Path

import pytest

from stepgrant_gateway.core.errors import PolicyRefusedError
from stepgrant_gateway.policy.directory import read_directory
from stepgrant_gateway.policy.lexer import split
from stepgrant_gateway.policy.load import check_policy, load_files, load_policy
from tests.kit.policy import ORDER, SUPPORT, asking, opening, with_cedar

TASK = 'principal is Task::Refund in Workload::"spiffe://dev.stepgrant.test/agent/support"'
GET = 'action == Action::"orders.get"'
REFUND = 'action == Action::"orders.refund"'
BOUND = 'context.args.order_id == principal.order_id && context.args.amount.greaterThan(decimal("0.0"))'
GOOD = f'@id("good") permit ({TASK}, {GET}, resource);'


def permit(scope: str, condition: str = "") -> str:
    return f'@id("x")\npermit ({scope})' + (f" when {{ {condition} }};" if condition else ";")


def forbid(scope: str, condition: str) -> str:
    return f'@id("x")\nforbid ({scope}) when {{ {condition} }};'


REFUSED = [
    # invariant 1: the principal is the task
    (permit(f"principal, {GET}, resource"), "the task, never the workload", ""),
    (permit(f'principal in Workload::"spiffe://dev.stepgrant.test/agent", {GET}, resource'), "never the workload", ""),
    (permit(f'principal == Workload::"spiffe://dev.stepgrant.test/agent", {GET}, resource'), "never the workload", ""),
    (permit(f"principal is Workload, {GET}, resource"), "never the workload", ""),
    (permit(f'principal == Task::Refund::"t", {GET}, resource'), "never the workload", ""),
    (permit(f'principal is Task::Refund in TargetGroup::"mail", {GET}, resource'), "never the workload", ""),
    (permit(f"principal is Task::Refnd, {GET}, resource"), "not a task type", "Task::Refund"),
    (permit(f'principal in TaskGroup::"suport", {GET}, resource'), "no group of task types", 'TaskGroup::"support"'),
    # invariant 1: the action is named
    (permit(f"{TASK}, action, resource", BOUND + " && context.args.to == []"), "action of a permit must be named", ""),
    (permit(f'{TASK}, action == Action::"orders.gte", resource'), "No tool", 'Action::"orders.get"'),
    (permit(f'{TASK}, action in Action::"raed", resource'), "No tool or group of tools", 'Action::"read"'),
    (permit(f'{TASK}, action in Action::"order.*", resource'), "No tool or group of tools", 'Action::"orders.*"'),
    # invariant 1: sink arguments are bound
    (permit(f"{TASK}, {REFUND}, resource"), "No condition names `amount`", ""),
    (permit(f"{TASK}, {REFUND}, resource", "context.args.order_id == principal.order_id"), "names `amount`", ""),
    (permit(f'{TASK}, action in Action::"write", resource', "context.budget.mails < 3"), "names `to`", ""),
    (permit(f'{TASK}, action in Action::"mail.*", resource', "context.budget.mails < 3"), "names `to`", ""),
    (permit(f'{TASK}, action == Action::"mail.send", resource', "context.args has to"), "names `to`", ""),
    (permit(f'{TASK}, action == Action::"mail.send", resource', "context.count.to == 1"), "names `to`", ""),
    # workloads
    (permit(f'principal is Task::Refund in Workload::"agent/support", {GET}, resource'), "not a SPIFFE ID", 'Workload::"spiffe://dev.stepgrant.test/agent/support"'),
    (permit(f'principal is Task::Refund in Workload::"support", {GET}, resource'), "not a SPIFFE ID", 'Workload::"spiffe://dev.stepgrant.test/agent/support"'),
    (permit(f"{TASK}, {GET}, resource", 'principal in Workload::"spiffe://dev.stepgrant.tst/agent/support"'), "does not lie under", 'Workload::"spiffe://dev.stepgrant.test/agent/support"'),
    (forbid("principal, action, resource", 'principal in Workload::"spiffe://dev.stepgrant.test/agents"'), "does not lie under", 'Workload::"spiffe://dev.stepgrant.test/agent"'),
    (permit(f"{TASK}, {GET}, resource", 'context.step.chain.contains("agent/support")'), "not a SPIFFE ID", 'Workload::"spiffe://dev.stepgrant.test/agent/support"'),
    # conditions that are constant
    (permit(f"{TASK}, {GET}, resource", "false"), "can never hold", ""),
    (permit(f"{TASK}, {GET}, resource", "1 == 2"), "can never hold", ""),
    (permit(f"{TASK}, {GET}, resource", '"a" like "b*"'), "can never hold", ""),
    (permit(f"{TASK}, {GET}, resource", "[1].contains(2)"), "can never hold", ""),
    (permit(f"{TASK}, {GET}, resource", "principal is Task::Triage"), "can never hold", ""),
    (permit(f"{TASK}, {GET}, resource", 'context.args.order_id == "a" && context.args.order_id == "b"'), "can never hold", ""),
    (permit(f"{TASK}, {GET}, resource", "!(context.args.order_id == context.args.order_id)"), "can never hold", ""),
    (permit(f"{TASK}, {GET}, resource", "context.args has colour"), "can never hold", ""),
    (forbid("principal, action, resource", "1 == 2"), "can never hold", ""),
    (forbid("principal, action, resource", "false"), "can never hold", ""),
    (permit(f"{TASK}, {GET}, resource", "true"), "always holds", ""),
    (permit(f"{TASK}, {GET}, resource", "context.args.order_id == principal.order_id || true"), "always holds", ""),
    (permit(f"{TASK}, {REFUND}, resource", f"{BOUND} && 1 < 2"), "always holds", ""),
    (permit(f"{TASK}, {REFUND}, resource", "context.args.order_id == context.args.order_id && context.args.amount.lessThan(decimal(\"9.0\"))"), "always holds", ""),
    # names that the schema knows
    (forbid("principal, action, resource", 'context.task.labels.contains(Label::"untrsted")'), "no label", 'Label::"untrusted"'),
    (permit(f'{TASK}, {GET}, resource in TargetGroup::"ordrs"'), "no target group", 'TargetGroup::"orders"'),
    (permit(f"{TASK}, {GET}, resource", "context.args.odrer_id == principal.order_id"), "Attribute `args.odrer_id`", "args.order_id"),
    (permit(f"{TASK}, {GET}, resource", "context.args.order_id == principal.oder_id"), "Attribute `oder_id`", "order_id"),
    (permit(f"{TASK}, {REFUND}, resource", f"{BOUND} && context.budget.refnds.lessThan(decimal(\"1.0\"))"), "`budget.refnds`", "budget.refunds"),
    (permit(f"{TASK}, {GET}, resource", 'resource == Taret::"x"'), "Unrecognized entity type", "Target"),
    (permit(f"{TASK}, {GET}, resource", "principal.ticket == \"x\""), "ask with `has` first", ""),
    (permit(f"{TASK}, {REFUND}, resource", f"{BOUND} && context.args.amount < 4"), "expected Long but saw decimal", ""),
    (permit(f'{TASK}, {GET}, resource == Gateway::"gateway"'), "No request can ever have", ""),
    # what can never be witnessed
    (permit(f"{TASK}, {REFUND}, resource", f'{BOUND} && context.task.completed.contains(Tool::"orders.get")'), "orders.get can never be in context.task.completed", ""),
    (permit(f"{TASK}, {REFUND}, resource", f'{BOUND} && context.task.completed.containsAll([Tool::"orders.gt"])'), "no tool `orders.gt`", 'Tool::"orders.get"'),
    # what is no policy
    (f"permit ({TASK}, {GET}, resource)", "does not end with `;`", ""),
    (f'permit ({TASK}, {GET}, resource) when {{ "a == "b" }};', "is never closed", ""),
    ('@id("x") permit (principal == ?principal, action, resource);', "A template authorizes nothing", ""),
    (f'@id("x") @id("y") permit ({TASK}, {GET}, resource);', "@id stands there twice", ""),
    (f'@id("x") @aproval("y") forbid (principal, {GET}, resource);', "@aproval is not an annotation", "@approval"),
    (f"permit ({TASK}, {GET}, resource);", "has no @id", ""),
    (f'@id("good") permit ({TASK}, {GET}, resource);', '@id("good") is taken', ""),
]  # fmt: skip


@pytest.mark.parametrize(("policy", "says", "nearest"), REFUSED)
def test_inv_01_a_set_with_a_policy_that_must_not_be_is_refused(policy: str, says: str, nearest: str):
    with pytest.raises(PolicyRefusedError) as caught:
        load_files(with_cedar(GOOD, "// the policy below is wrong", policy))
    found = [f for f in caught.value.findings if says in f.message]
    assert found, caught.value
    assert {(f.file, f.line) for f in found} == {("a.cedar", 3)}
    assert found[0].nearest == nearest
    if '@id("x")' in policy and "twice" not in says and "template" not in says:
        assert found[0].policy_id == "x"


def test_standing_privilege_cannot_be_written_down_by_accident():
    with pytest.raises(PolicyRefusedError) as caught:
        load_files(with_cedar("permit(principal, action, resource);"))
    text = str(caught.value)
    assert "the task, never the workload" in text
    assert "action of a permit must be named" in text
    assert "No condition names `to`" in text
    assert "has no @id" in text


@pytest.mark.parametrize(
    "policy",
    [
        permit(f'{TASK}, action in Action::"read", resource'),
        permit(f'principal in TaskGroup::"support", action in [{GET[10:]}, Action::"orders.search"], resource'),
        permit(f"{TASK}, {REFUND}, resource", BOUND),
        (
            f'@id("x") @unbound("an amount is capped by the budget") permit ({TASK}, {REFUND}, resource) '
            "when { context.args.order_id == principal.order_id };"
        ),
        permit(f'{TASK}, action == Action::"mail.send", resource', "context.parts.to.address == [principal.customer]"),
        forbid("principal, action, resource", "context.task.denials > 3"),
        '@id("x") forbid (principal, action, resource) unless { principal is Task::Refund };',
        permit(f"{TASK}, {GET}, resource", 'context.step.chain.contains("spiffe://dev.stepgrant.test/agent/support")'),
    ],
)
def test_what_is_well_said_is_loaded(policy: str):
    assert load_files(with_cedar(GOOD, policy)).digest.startswith("sha256:")


def test_every_finding_is_reported_at_once_and_in_order():
    with pytest.raises(PolicyRefusedError) as caught:
        load_files(with_cedar(permit(f"principal, {GET}, resource"), '@id("y") @tll("1s") ' + GOOD[12:]))
    places = [(finding.file, finding.line, finding.policy_id) for finding in caught.value.findings]
    assert places == [("a.cedar", 1, "x"), ("a.cedar", 3, "y")]


def test_the_policy_of_the_support_desk_loads_with_all_its_cases():
    report = check_policy(SUPPORT)
    assert report.findings == ()
    assert report.warnings == ()
    assert (report.task_types, report.tools, report.policies) == (2, 5, 12)
    assert report.cases > 30
    assert report.digest == load_policy(SUPPORT).digest


def test_a_needless_unbound_and_a_type_that_nobody_may_open_are_warned_of(tmp_path: Path):
    directory = shutil.copytree(SUPPORT, tmp_path / "policy")
    shutil.rmtree(directory / "tests")
    for file in directory.glob("*.cedar"):
        file.unlink()
    (directory / "a.cedar").write_text(f'@id("x") @unbound("why") permit ({TASK}, {GET}, resource);')
    report = check_policy(directory)
    assert report.findings == ()
    assert "@unbound excuses nothing" in str(report.warnings)
    assert "open a Triage task" in str(report.warnings)


def test_what_cannot_be_read_is_reported_and_not_raised(tmp_path: Path):
    assert check_policy(tmp_path).findings[0].file == "catalog.yaml"
    broken = {**with_cedar("permit (principal, action);"), "catalog.yaml": b"version: [1"}
    with pytest.raises(PolicyRefusedError) as caught:
        load_files(broken)
    assert {finding.file for finding in caught.value.findings} == {"catalog.yaml", "a.cedar"}


def test_any_changed_byte_changes_the_digest():
    files = with_cedar(GOOD)
    assert load_files(files).digest != load_files({**files, "a.cedar": files["a.cedar"] + b" "}).digest


SHARED = Path(
    os.environ.get("STEPGRANT_EXAMPLE_POLICY", Path(__file__).parents[5] / "shared" / "design" / "example-policy")
)


@pytest.mark.skipif(not (SHARED / "catalog.yaml").exists(), reason="the shared example is not on this machine")
def test_the_shared_example_loads_without_its_two_approvals(tmp_path: Path):
    directory = tmp_path / "policy"
    shutil.copytree(SHARED, directory, ignore=shutil.ignore_patterns("*.cedarschema"), copy_function=shutil.copyfile)
    directory.chmod(0o755)
    for folder in ("tools", "tests"):
        (directory / folder).chmod(0o755)
    whole = check_policy(directory)
    assert sum("@approval is not enforced by this version" in f.message for f in whole.findings) == 2
    pieces, _ = split("support.cedar", (directory / "support.cedar").read_text())
    (directory / "support.cedar").write_text("\n".join(p.text for p in pieces if "@approval" not in p.text))
    cases = re.split(r"(?m)^(?=- name)", (directory / "tests" / "refund.yaml").read_text())
    (directory / "tests" / "refund.yaml").write_text("".join(case for case in cases if "pending" not in case))
    report = check_policy(directory)
    assert report.findings == ()
    assert (report.policies, report.cases) == (7, 2)


def test_what_is_loaded_decides():
    policy = load_policy(SUPPORT)
    assert type(policy.evaluate(opening())).__name__ == "Permitted"
    assert type(policy.evaluate(asking(policy, "orders.get", {"order_id": ORDER}))).__name__ == "Permitted"
    assert next(iter(read_directory(SUPPORT))) == "catalog.yaml"
