"""A tool is what the catalog declares and what its document says, and its digest binds both."""

import pytest

from stepgrant import intent
from stepgrant_gateway.policy.catalog import load_catalog
from stepgrant_gateway.policy.shapes import Format
from tests.kit.catalogs import admitted, catalog_files, edited, findings_of, invalid, one_tool, strict

ARRAY = {"type": "array", "items": {"type": "string"}}


def test_the_digest_is_over_name_schema_effects_and_target():
    tool = load_catalog(catalog_files()).tools["mail.read"]
    schema = {
        "type": "object",
        "properties": {"mailbox": {"type": "string", "minLength": 1, "maxLength": 64}},
        "required": ["mailbox"],
    }
    expected = strict({"name": "mail.read", "input_schema": schema, "effects": ["read"], "target": "imap://{mailbox}"})
    assert tool.digest == intent.digest(expected)


@pytest.mark.parametrize(
    ("old", "new", "file"),
    [
        ('"maxLength": 64', '"maxLength": 65', "tools/mail.json"),
        ("effects: [read]\n        tier: routine\n        target: \"imap", "effects: [read, egress]\n        tier: routine\n        target: \"imap", "catalog.yaml"),
        ("imap://{mailbox}", "imap://box/{mailbox}", "catalog.yaml"),
    ],
)  # fmt: skip
def test_the_digest_changes_with_what_the_tool_is(old, new, file):
    before = load_catalog(catalog_files()).tools["mail.read"].digest
    assert load_catalog(edited(old, new, file=file)).tools["mail.read"].digest != before


def test_the_digest_does_not_change_with_prose_or_tier():
    before = load_catalog(catalog_files()).tools["mail.read"].digest
    prose = edited("What came into a mailbox.", "Mail.", file="tools/mail.json")
    assert load_catalog(prose).tools["mail.read"].digest == before


def test_settings_add_to_the_schema():
    catalog = one_tool({"to": ARRAY}, arguments={"to": {"format": "email", "min_items": 1, "unique": True}})
    assert catalog.schemas["lab.run"].formats == {"to": Format.EMAIL}
    assert admitted(catalog, {"to": ["a@x.org", "b@x.org"]})
    assert invalid(catalog, {"to": []}).argument == "to"
    assert invalid(catalog, {"to": ["a"]}).argument == "to[0]"
    assert invalid(catalog, {"to": ["a@x.org", "a@X.ORG"]}).argument == "to"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("      search:", "      serch:", "tools/orders.json has no tool `serch` Did you mean search?"),
        ("      search:", "      purge-all:", "is not a name"),
        ("tools/orders.json", "tools/order.json", "no file tools/order.json Did you mean tools/orders.json?"),
        ("amount: {sink: true}", "amuont: {sink: true}", "no argument `amuont` Did you mean amount?"),
        ("amount: {sink: true}", "amount: {sink: true, hidden: true}", "is a sink and is hidden"),
        ("amount: {sink: true}", "amount: {format: email}", "neither a string nor an array of strings"),
        ("amount: {sink: true}", "amount: {min_items: 1}", "is not an array"),
        ("min_items: 1", "min_items: 51", "above the schema's maxItems"),
        ("imap://{mailbox}", "imap://{mail}", "names `mail`, which is no argument of it Did you mean mailbox?"),
        ("mail://outbox", "mail://{body}/{attachments}", "not a required string, integer or boolean"),
    ],
)
def test_what_does_not_fit_the_document_is_refused_with_its_line(old, new, says):
    found = findings_of(edited(old, new))
    assert says in "\n".join(found)
    assert all(finding.startswith("catalog.yaml:") for finding in found)


def test_a_schema_that_cannot_be_enforced_is_refused_at_the_tool_in_its_document():
    files = edited('"maxItems": 50', '"contains": {}', file="tools/mail.json")
    assert findings_of(files) == [
        "tools/mail.json:15: tool `send`, `to`: the keyword `contains` for array is not enforced by this version"
    ]


def test_policy_is_told_what_it_will_not_see_unless_that_was_asked_for():
    union = {"anyOf": [{"type": "string"}, {"type": "integer"}]}
    assert "`a` may be one of several types" in str(one_tool({"a": union}).warnings[0])
    assert one_tool({"a": union}, arguments={"a": {"hidden": True}}).warnings == ()
