"""Catalogs for tests: the support desk's own, with one line changed, or one tool of a given schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stepgrant.errors import Denial, DenialCode
from stepgrant.intent import Json, from_python, parse_object
from stepgrant_gateway.core.decision import Call
from stepgrant_gateway.core.errors import PolicyRefusedError
from stepgrant_gateway.policy.catalog import LoadedCatalog, load_catalog

SUPPORT = Path(__file__).parents[2] / "examples" / "demo" / "policy"

_ONE_TOOL = """\
version: 1
workloads: ["spiffe://dev.stepgrant.test/agent"]
tasks: {Job: {max_age: 1h}}
servers:
  lab:
    document: tools/lab.json
    audience:
      id: lab
      binding: key
      verifiers: ["spiffe://dev.stepgrant.test/resource/lab"]
    tools:
      run: {effects: [execute], tier: routine, target: "lab://one", arguments: ARGUMENTS}
targets: [{match: "*"}]
budgets: BUDGETS
"""


def catalog_files(folder: Path = SUPPORT) -> dict[str, bytes]:
    """Catalog and tool documents of a policy directory."""
    paths = [folder / "catalog.yaml", *sorted((folder / "tools").iterdir())]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def edited(old: str, new: str, *, file: str = "catalog.yaml") -> dict[str, bytes]:
    """The support desk's files with one text replaced; it must stand there."""
    files = catalog_files()
    text = files[file].decode()
    assert old in text, f"{old!r} is not in {file}"
    return {**files, file: text.replace(old, new, 1).encode()}


def findings_of(files: Mapping[str, bytes]) -> list[str]:
    """What is wrong with a catalog that must be refused."""
    with pytest.raises(PolicyRefusedError) as caught:
        load_catalog(files)
    return [str(finding) for finding in caught.value.findings]


def one_tool(
    properties: Mapping[str, Any],
    *,
    required: tuple[str, ...] = (),
    arguments: Mapping[str, Any] | None = None,
    budgets: Mapping[str, Any] | None = None,
) -> LoadedCatalog:
    """A catalog whose one tool, `lab.run`, takes these properties, with these settings of the catalog."""
    schema = {"type": "object", "properties": dict(properties), "required": list(required)}
    document = {"tools": [{"name": "run", "inputSchema": schema}]}
    catalog = _ONE_TOOL.replace("ARGUMENTS", json.dumps(arguments or {})).replace("BUDGETS", json.dumps(budgets or {}))
    return load_catalog({"catalog.yaml": catalog.encode(), "tools/lab.json": json.dumps(document).encode()})


def strict(value: Mapping[str, Any] | str) -> dict[str, Json]:
    """Strict JSON of plain Python values, or of JSON text."""
    parsed = parse_object(value) if isinstance(value, str) else from_python(value)
    assert isinstance(parsed, dict)
    return parsed


def admitted(catalog: LoadedCatalog, arguments: Mapping[str, Any] | str, tool: str = "lab.run") -> Call:
    """The call, which must be valid."""
    call = catalog.prepare_call(tool, strict(arguments))
    assert isinstance(call, Call), call
    return call


def invalid(catalog: LoadedCatalog, arguments: Mapping[str, Any] | str, tool: str = "lab.run") -> Denial:
    """The denial of a call, which must be `arguments_invalid` and say what to do."""
    denial = catalog.prepare_call(tool, strict(arguments))
    assert isinstance(denial, Denial), denial
    assert denial.code is DenialCode.ARGUMENTS_INVALID
    assert denial.next
    return denial
