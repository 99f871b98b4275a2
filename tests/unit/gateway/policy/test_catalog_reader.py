"""catalog.yaml: every section is checked, and each finding names its line and the nearest valid name."""

import re
from datetime import timedelta

import pytest

from stepgrant.grant import Binding, Tier
from stepgrant_gateway.policy.catalog_reader import read_catalog
from stepgrant_gateway.policy.yaml_reader import read_yaml
from tests.kit.catalogs import catalog_files, edited, findings_of


def declarations():
    return read_catalog(read_yaml("catalog.yaml", catalog_files()["catalog.yaml"]))


def test_everything_that_the_support_desk_declares_is_there():
    declared = declarations()
    refund = declared.tasks["Refund"].task_type
    assert (refund.max_age, refund.memory_window, refund.memory_scope) == (
        timedelta(minutes=15),
        timedelta(hours=1),
        "instance",
    )
    assert refund.groups == {"support"}
    assert declared.tasks["Triage"].task_type.memory_window is None
    assert declared.workload_roots == ("spiffe://dev.stepgrant.test/agent",)
    assert declared.servers == {
        "orders": {"orders.get", "orders.search", "orders.refund"},
        "mail": {"mail.read", "mail.send"},
    }
    send = declared.tools["mail.send"]
    assert send.effects == {"write", "egress"}
    assert send.tier is Tier.SENSITIVE
    assert send.audience.binding is Binding.KEY
    assert send.arguments["body"].sensitive
    assert declared.budgets["mails"].budget.window == timedelta(hours=1)
    assert not declared.budgets["mails"].budget.is_sum


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("version: 1", "version: 2", "catalog.yaml:2: `version`"),
        ("version: 1", "versoin: 1", "no key `versoin` Did you mean version?"),
        ("spiffe://dev.stepgrant.test/agent", "spiffe://Dev.stepgrant.test/agent", "trust domain"),
        ('["spiffe://dev.stepgrant.test/agent"]', "[]", "`workloads` is empty"),
        ("  Refund:", "  Is-it:", "is not a name"),
        ("  Refund:", "  in:", "word of Cedar"),
        ("  Refund:", "  Workload:", "word of Cedar"),
        ("  Refund:", "  triage: {max_age: 1h}\n  Refund:", "differ in case only"),
        ("    max_age: 15m\n", "", "lacks `max_age`"),
        ("max_age: 15m", "max_age: 15", "`max_age` is a number, and must be text"),
        ("scope: instance", "scope: process", "is none of instance, workload"),
        ("{window: 1h, scope: instance}", "{window: 1h}", "lacks `scope`"),
        ("window: 1h, scope", "window: 31d, scope", "longer than the 30 days that labels are remembered"),
        ("groups: [support]", "groups: [support, Support]", "differs in case only"),
        ("groups: [support]", "groups: [supp-ort]", "is not a name"),
        ("  orders: #", "  Orders: #", "no name for a server"),
        ("  orders: #", "  task: #", "no name for a server"),
        ("binding: mtls", "binding: mlts", "Did you mean mtls?"),
        ("resource/orders\"]", "\"]", "path segment"),
        ('verifiers: ["spiffe://dev.stepgrant.test/resource/mail"]', 'verifiers: ["spiffe://x"]', "no workload"),
        ("id: \"https://mail.dev.stepgrant.test\"", "id: \"a b\"", "printable ASCII"),
        ("id: \"https://mail.dev.stepgrant.test\"", "id: \"spiffe://dev.stepgrant.test/resource/orders\"", "another binding"),
        ("effects: [write, egress]", "effects: [write, egres]", "Did you mean egress?"),
        ("effects: [write, egress]", "effects: []", "`effects` is empty"),
        ("tier: sensitive", "tier: privileged", "tier privileged is not enforced by this version"),
        ("tier: sensitive", "tier: sensitve", "Did you mean sensitive?"),
        ('target: "imap://{mailbox}"', 'target: "imap://{mailbox"', "target template"),
        ("labels: [untrusted]", "labels: [untrüsted]", "is not a name"),
        ("{sensitive: true}", "{sensitiv: true}", "Did you mean sensitive?"),
        ("{sensitive: true}", "{sensitive: yes}", "more than one reading"),
        ("format: email, sink", "format: url, sink", "Did you mean uri?"),
        ("groups: [orders, production]", "gruops: [orders]", "Did you mean groups?"),
        ('match: "imap://*", groups: [mail]', 'match: "imap://*", tier: privileged', "not enforced"),
        ("{sum: [orders.refund.amount], per: task}", "{per: task}", "either `sum` or `count`"),
        ("{sum: [orders.refund.amount], per: task}", "{sum: [], per: task}", "counts nothing"),
        ("per: workload", "per: worklaod", "Did you mean workload?"),
        ("  mails:", "  Refunds:", "differ in case only"),
        ("\nbudgets:", "\nsubject: {sub: {type: string}}\nbudgets:", "`sub` is always there"),
    ],
)  # fmt: skip
def test_each_thing_that_is_wrong_is_refused(old, new, says):
    found = findings_of(edited(old, new))
    assert says in "\n".join(found)
    assert all(finding.startswith("catalog.yaml:") for finding in found)


def test_all_sections_are_read_before_anything_is_refused():
    files = edited("max_age: 15m", "max_age: 15")
    text = files["catalog.yaml"].replace(b"per: workload", b"per: anybody").replace(b"binding: mtls", b"binding: tls")
    assert len(findings_of({**files, "catalog.yaml": text})) == 3


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("  Refund:", "  R\u0435fund:", "is not a name"),  # CYRILLIC SMALL LETTER IE
        ("  Refund:", "  \uff32efund:", "is not a name"),  # FULLWIDTH LATIN CAPITAL LETTER R
        ("  Refund:", "  Ref\u200dund:", "is not a name"),  # ZERO WIDTH JOINER
        ("  Refund:", "  Refu\u0144d:", "is not a name"),  # as one character
        ("  Refund:", "  Refun\u0301d:", "is not a name"),  # and as two
        ("  Triage:", "  Tr\u0131age:", "is not a name"),  # DOTLESS I
        ("  Refund:", "  refund: {max_age: 1h}\n  Refund:", "differs? in case only"),
        ("groups: [support]", "groups: [support, SUPPORT]", "differs? in case only"),
        ("groups: [support]", "groups: [\u017fupport]", "is not a name"),  # LONG S
        ("  orders: #", "  ord\u0435rs: #", "no name for a server"),
        ("  orders.get:", "  orders.g\u0435t:", "which is no tool"),
        ("resource/orders\"]", "resource/\u043erders\"]", "path segment"),  # CYRILLIC SMALL LETTER O
    ],
)  # fmt: skip
def test_id_06_a_name_that_only_looks_like_another_is_refused(old, new, says):
    assert re.search(says, "\n".join(findings_of(edited(old, new))))
