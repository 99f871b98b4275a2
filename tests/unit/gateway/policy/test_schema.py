"""The Cedar schema follows from the catalog."""

import os
from pathlib import Path

import cedarpy
import pytest

from stepgrant_gateway.policy.catalog import load_catalog
from stepgrant_gateway.policy.schema import NO_NAMES, derive_schema
from tests.kit.catalogs import catalog_files, one_tool

EXAMPLE = Path(os.environ.get("STEPGRANT_EXAMPLE_POLICY", Path(__file__).parents[5] / "shared/design/example-policy"))


def parsed(text):
    return str(cedarpy.Schema.from_str(text))


@pytest.mark.skipif(not EXAMPLE.is_dir(), reason="the example policy is not beside the repository")
def test_the_schema_of_the_example_means_what_stands_beside_it():
    """But for the actions of a task as a whole that came later, each of which is a line of its own."""
    lines = derive_schema(load_catalog(catalog_files(EXAMPLE))).splitlines()
    [later] = [line for line in lines if line.startswith('action "task.hand_off"')]
    lines.remove(later)
    derived = "\n".join(lines)
    assert parsed(derived) == parsed((EXAMPLE / "derived.cedarschema").read_text())


def test_the_schema_of_the_support_desk_is_one():
    schema = derive_schema(load_catalog(catalog_files()))
    assert 'entity Label enum ["confidential", "untrusted"];' in schema
    assert 'action "mail.send" in ["write", "egress", "mail.*"]' in schema
    assert "purge" not in schema
    assert parsed(schema)


def context_of(catalog):
    line = next(line for line in derive_schema(catalog).splitlines() if line.startswith('action "lab.run"'))
    return line.partition("context: ")[2]


def test_each_shape_has_its_cedar_type():
    properties = {
        "s": {"type": "string"},
        "i": {"type": "integer"},
        "n": {"type": "number"},
        "b": {"type": "boolean"},
        "l": {"type": "array", "items": {"type": "number"}},
        "o": {"type": "object", "properties": {"in": {"type": "string"}}, "required": ["in"]},
        "u": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        "h": {"type": "string"},
        "z": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "d": {"type": "integer", "default": 1},
    }
    catalog = one_tool(properties, required=("s", "i", "n", "b", "l", "z"), arguments={"h": {"hidden": True}})
    context = context_of(catalog)
    assert context.startswith(
        '{ "args": { "b": Bool, "d": Long, "i": Long, "l": Set<decimal>, "n": decimal, "o"?: { "in": String }, '
        '"s": String, "z"?: String }, "budget": Budget, "count": { "l": Long }'
    )
    assert parsed(derive_schema(catalog))


def test_parts_are_records_or_sets_and_absent_where_the_argument_may_be():
    properties = {"a": {"type": "string", "format": "uri"}, "b": {"type": "array", "items": {"type": "string"}}}
    catalog = one_tool(properties, required=("a",), arguments={"b": {"format": "hostname"}})
    context = context_of(catalog)
    assert '"a": { "host": String, "path": String, "port": Long, "scheme": String }' in context
    assert '"b"?: { "name": Set<String> }' in context
    assert '"count": { "b"?: Long }' in context


def test_an_empty_catalog_has_enumerations_that_nobody_can_name_a_member_of():
    schema = derive_schema(one_tool({}))
    assert f'entity Label enum ["{NO_NAMES}"];' in schema
    assert parsed(schema)


@pytest.mark.parametrize(("action", "own"), [("task.open", "open"), ("task.hand_off", "hand_off")])
def test_everything_but_the_call_is_there_where_a_task_is_asked_about(action, own):
    schema = derive_schema(load_catalog(catalog_files()))
    line = next(line for line in schema.splitlines() if line.startswith(f'action "{action}"'))
    for name in ("budget", "now", own, "peer", "step", "subject", "task"):
        assert f'"{name}"' in line
    assert "args" not in line
