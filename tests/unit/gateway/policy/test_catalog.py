"""The loaded catalog prepares tasks and calls; what it does not know is a denial (INV-02)."""

from decimal import Decimal

import pytest

from stepgrant import intent
from stepgrant.errors import Denial, DenialCode
from stepgrant.grant import Tier
from stepgrant_gateway.core.decision import NO_PERMIT, Parameters
from stepgrant_gateway.core.errors import PolicyRefusedError
from stepgrant_gateway.policy.catalog import load_catalog
from tests.kit.catalogs import admitted, catalog_files, edited, findings_of, invalid, strict

REFUND = {"order_id": "ord_00000042", "amount": 40}
MAIL = {"to": ["jo@X.org", "al@y.org"], "subject": "s", "body": "b"}


@pytest.fixture(scope="module")
def catalog():
    return load_catalog(catalog_files())


def test_what_the_application_needs_is_there(catalog):
    assert set(catalog.task_types) == {"Refund", "Triage"}
    assert set(catalog.tools) == {"orders.get", "orders.search", "orders.refund", "mail.read", "mail.send"}
    assert set(catalog.audiences) == {"spiffe://dev.stepgrant.test/resource/orders", "https://mail.dev.stepgrant.test"}
    assert set(catalog.budgets) == {"refunds", "mails"}
    assert catalog.parameters_of("Refund") == ("customer", "order_id", "ticket")
    assert catalog.sinks == {"orders.refund": {"order_id", "amount"}, "mail.send": {"to"}}
    assert catalog.labels == {"confidential", "untrusted"}
    assert catalog.task_groups == {"support"}
    assert catalog.target_groups == {"orders", "production", "mail"}
    assert catalog.warnings == ()


def test_a_call_is_all_that_follows_from_tool_and_arguments(catalog):
    call = admitted(catalog, REFUND, "orders.refund")
    assert call.tool is catalog.tools["orders.refund"]
    assert call.args_sha256 == intent.digest(strict(REFUND))
    assert call.target == "pg://orders/ord_00000042"
    assert call.target_groups == {"orders", "production"}
    assert call.tier is Tier.SENSITIVE
    assert call.deltas == {"refunds": Decimal(40)}
    assert call.envelope is not None
    assert call.view == {
        "args": {"order_id": "ord_00000042", "amount": {"__extn": {"fn": "decimal", "arg": "40.0000"}}}
    }


def test_parts_and_counts_are_columns_of_arrays(catalog):
    call = admitted(catalog, MAIL, "mail.send")
    assert call.view["count"] == {"to": 2}
    assert call.view["parts"] == {
        "to": {"address": ["jo@x.org", "al@y.org"], "local": ["jo", "al"], "domain": ["x.org", "y.org"]}
    }
    assert call.view["args"]["to"] == ["jo@X.org", "al@y.org"]
    assert call.sensitive == {"body"}


def test_the_tier_is_the_higher_of_tool_and_target():
    raised = load_catalog(edited('"pg://orders*", groups', '"pg://orders*", tier: sensitive, groups'))
    assert admitted(raised, {"order_id": "o"}, "orders.get").tier is Tier.SENSITIVE
    lowered = load_catalog(edited('"pg://orders*", groups', '"pg://orders*", tier: routine, groups'))
    assert admitted(lowered, REFUND, "orders.refund").tier is Tier.SENSITIVE


@pytest.mark.parametrize("tool", ["orders.purge", "orders.nothing", "nowhere.get", "", "orders.get\n"])
def test_inv_02_an_unknown_tool_is_denied(catalog, tool):
    """INV-02: a tool that the catalog leaves out is as unknown as one that does not exist."""
    denial = catalog.prepare_call(tool, {})
    assert denial == Denial(NO_PERMIT.code, NO_PERMIT.reason, NO_PERMIT.next)


def test_inv_02_an_unknown_target_is_denied():
    """INV-02: a target that no rule matches is a denial."""
    catalog = load_catalog(edited('match: "imap://*"', 'match: "imap://a*"'))
    assert admitted(catalog, {"mailbox": "a1"}, "mail.read")
    assert catalog.prepare_call("mail.read", {"mailbox": "b1"}) == Denial(
        NO_PERMIT.code, NO_PERMIT.reason, NO_PERMIT.next
    )


def test_an_argument_cannot_leave_its_place_in_the_target(catalog):
    assert admitted(catalog, {"order_id": "../x"}, "orders.get").target == "pg://orders/..%2Fx"
    assert invalid(catalog, {"order_id": ".."}, "orders.get").argument == "order_id"


def test_parameters_are_normalised_and_held_to_their_type(catalog):
    prepared = catalog.prepare_task("Refund", strict({"order_id": "ord_00000042", "customer": "jo@X.Org"}))
    assert prepared == Parameters({"order_id": "ord_00000042", "customer": "jo@x.org"}, frozenset())
    wrong = catalog.prepare_task("Refund", strict({"order_id": "ord_42", "customer": "jo@x.org"}))
    assert (wrong.code, wrong.argument) == (DenialCode.ARGUMENTS_INVALID, "order_id")
    assert catalog.prepare_task("Refnd", {}).code is DenialCode.NO_PERMIT


@pytest.mark.parametrize("file", ["catalog.yaml", "tools/mail.json"])
def test_a_missing_file_is_refused(file):
    files = {name: content for name, content in catalog_files().items() if name != file}
    with pytest.raises(PolicyRefusedError, match="has no"):
        load_catalog(files)


def test_a_tool_whose_target_no_rule_can_match_is_refused():
    assert (
        "no rule of `targets` matches what `mail.read` acts on" in findings_of(edited('match: "imap', 'match: "map'))[0]
    )
