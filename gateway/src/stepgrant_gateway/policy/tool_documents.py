"""Tool documents: what an MCP server answered to `tools/list`, kept as a file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from stepgrant.errors import ArgumentsInvalidError
from stepgrant.intent import Json, from_python
from stepgrant_gateway.policy.findings import refused

MAX_DOCUMENT_BYTES: Final = 4 * 1024 * 1024
MAX_DOCUMENT_TOOLS: Final = 4096
MAX_DOCUMENT_DEPTH: Final = 64


@dataclass(frozen=True, slots=True)
class DocumentedTool:
    """A tool as its server describes it. `line`: where its name stands in the file."""

    name: str
    line: int
    input_schema: Json


def read_tool_document(file: str, content: bytes) -> Mapping[str, DocumentedTool]:
    """The tools of a `{"tools": [...]}` document, by name.

    Raises:
        PolicyRefusedError: not such a document, a name twice, or beyond a bound.
    """
    if len(content) > MAX_DOCUMENT_BYTES:
        raise refused(file, 0, f"the file takes {len(content)} bytes, more than {MAX_DOCUMENT_BYTES}")
    try:
        text = content.decode("utf-8")
        document = json.loads(
            text, object_pairs_hook=_unique, parse_int=Decimal, parse_float=Decimal, parse_constant=_no_constant
        )
    except json.JSONDecodeError as error:
        raise refused(file, error.lineno, f"not JSON: {error.msg}") from None
    except RecursionError:
        raise refused(file, 0, f"the document nests deeper than {MAX_DOCUMENT_DEPTH} levels") from None
    except (ArithmeticError, ValueError) as error:
        raise refused(file, 0, f"not strict JSON: {error}") from None
    listed = document.get("tools") if isinstance(document, dict) else None
    if not isinstance(listed, list) or len(listed) > MAX_DOCUMENT_TOOLS:
        raise refused(file, 0, f'not the answer to MCP tools/list: {{"tools": [...]}} of at most {MAX_DOCUMENT_TOOLS}')
    if _depth(document) > MAX_DOCUMENT_DEPTH:
        raise refused(file, 0, f"the document nests deeper than {MAX_DOCUMENT_DEPTH} levels")
    tools: dict[str, DocumentedTool] = {}
    for item in listed:
        tool = _tool(file, text, item)
        if tool.name in tools:
            raise refused(file, tool.line, f"tool `{tool.name[:64]}` stands there twice")
        tools[tool.name] = tool
    return tools


def _tool(file: str, text: str, item: object) -> DocumentedTool:
    name = item.get("name") if isinstance(item, dict) else None
    if not isinstance(item, dict) or not isinstance(name, str) or not name:
        raise refused(file, 0, "a tool without `name`")
    line = _line_of(text, name)
    if "inputSchema" not in item:
        raise refused(file, line, f"tool `{name[:64]}` has no `inputSchema`")
    try:
        return DocumentedTool(name, line, from_python(item["inputSchema"]))
    except ArgumentsInvalidError as error:
        raise refused(file, line, f"the schema of tool `{name[:64]}`: {error.reason}") from None


def _line_of(text: str, name: str) -> int:
    # json gives no positions; a tool's name is found again as it is usually written.
    match = re.search(r'"name"\s*:\s*' + re.escape(json.dumps(name, ensure_ascii=False)), text)
    return 0 if match is None else text.count("\n", 0, match.start()) + 1


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(items)
    if len(result) != len(items):
        names = [name for name, _ in items]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"`{twice[:64]}` stands twice in one object")
    return result


def _no_constant(token: str) -> Any:
    raise ValueError(f"{token} is not JSON")


def _depth(value: object) -> int:
    deepest, pending = 0, [(value, 1)]
    while pending:
        item, depth = pending.pop()
        deepest = max(deepest, depth)
        if depth <= MAX_DOCUMENT_DEPTH and isinstance(item, dict | list):
            inner = item.values() if isinstance(item, dict) else item
            pending.extend((one, depth + 1) for one in inner)
    return deepest
