from pathlib import Path

import yaml

from examples.agentdojo.table import HERE, Request, named_by_policy, not_in_prompt, read_table
from stepgrant_gateway.policy.load import check_policy


def test_a_parameter_that_the_customer_said_is_accepted():
    request = Request("SendMoney", {"payee": "NL02ABNA0123456789", "up_to": 12})
    assert not_in_prompt([request], "Pay NL02ABNA0123456789 back; we spent 12.00 in total.") == []


def test_a_string_that_does_not_stand_in_the_prompt_is_named():
    request = Request("SendMoney", {"payee": "NL02ABNA0123456789"})
    assert not_in_prompt([request], "Pay my landlord.") == ["SendMoney.payee"]


def test_a_number_that_the_customer_did_not_say_is_named():
    request = Request("ReturnPayment", {"amount": 10})
    assert not_in_prompt([request], "Send back the 10.50 of 2010.") == ["ReturnPayment.amount"]


def test_a_benchmark_value_in_a_rule_is_found(tmp_path: Path):
    (tmp_path / "walls.cedar").write_text(
        'forbid (principal, action, resource) when { context.args.to == "evil-account" };'
    )
    assert named_by_policy(["evil-account", "other-account", 3, "to"], tmp_path) == ["evil-account"]


def test_the_table_covers_sixteen_prompts_with_declared_types_and_parameters():
    table = read_table()
    declared = yaml.safe_load((HERE / "policy" / "catalog.yaml").read_text(encoding="utf-8"))["tasks"]
    assert sorted(table) == sorted(f"user_task_{number}" for number in range(16))
    for requests in table.values():
        for request in requests:
            parameters = declared[request.task_type]["parameters"]
            required = {name for name, kind in parameters.items() if not kind.get("optional")}
            assert required <= request.parameters.keys() <= parameters.keys()


def test_the_banks_policy_loads_and_its_golden_cases_hold():
    report = check_policy(HERE / "policy")
    assert report.findings == ()
    assert report.warnings == ()
    assert report.cases >= 15
