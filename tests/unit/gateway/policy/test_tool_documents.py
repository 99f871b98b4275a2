"""Tool documents are strict JSON with tools by name."""

import json

import pytest

from stepgrant_gateway.core.errors import PolicyRefusedError
from stepgrant_gateway.policy.tool_documents import MAX_DOCUMENT_BYTES, MAX_DOCUMENT_DEPTH, read_tool_document

SCHEMA = '{"type": "object"}'
TOOL = f'{{"name": "get", "inputSchema": {SCHEMA}}}'


def test_a_tool_is_found_with_its_line():
    tools = read_tool_document("t.json", f'{{"tools": [\n\n{TOOL}], "nextCursor": null}}'.encode())
    assert tools["get"].line == 3
    assert tools["get"].input_schema == {"type": "object"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{\n"tools": [}', "t.json:2: not JSON"),
        ("[]", "tools/list"),
        ('{"tools": {}}', "tools/list"),
        ('{"tools": [1]}', "without `name`"),
        ('{"tools": [{"name": "get"}]}', "has no `inputSchema`"),
        (f'{{"tools": [{TOOL}, {TOOL}]}}', "stands there twice"),
        ('{"tools": [], "tools": []}', "stands twice in one object"),
        ('{"tools": [{"name": "get", "inputSchema": {"minimum": NaN}}]}', "NaN"),
        ('{"tools": [{"name": "get", "inputSchema": {"minimum": 0.1000000000000000000001}}]}', "what a double holds"),
        ('{"tools": [{"name": "get", "inputSchema": {"default": "\\ud800"}}]}', "surrogate"),
        ("[" * 200_000, "nests deeper"),
        (json.dumps({"tools": [{"x": 1}] * 5000}), "at most"),
        (" " * (MAX_DOCUMENT_BYTES + 1), "bytes"),
    ],
)
def test_anything_else_is_refused(text, says):
    with pytest.raises(PolicyRefusedError) as caught:
        read_tool_document("t.json", text.encode())
    assert says in str(caught.value)


def test_depth_is_bounded():
    deep: object = {}
    for _ in range(MAX_DOCUMENT_DEPTH):
        deep = {"a": deep}
    with pytest.raises(PolicyRefusedError, match="nests deeper"):
        read_tool_document("t.json", json.dumps({"tools": [{"name": "a", "inputSchema": deep}]}).encode())


def test_bytes_that_are_not_utf8_are_refused():
    with pytest.raises(PolicyRefusedError, match="strict JSON"):
        read_tool_document("t.json", b'{"tools": "\xff"}')
