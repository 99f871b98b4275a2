from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import typer

from stepgrant_gateway.cli.exits import Exit
from stepgrant_gateway.cli.program import program
from stepgrant_gateway.config import FEDERATION, SECTIONS
from stepgrant_gateway.identity.settings import FederationSettings
from stepgrant_gateway.policy.load import load_files
from tests.kit.policy import support_files

PAGE = (Path(__file__).parents[3] / "docs" / "policy.md").read_text(encoding="utf-8")
READERS = Path(__file__).parents[3] / "gateway" / "src" / "stepgrant_gateway" / "policy"


def test_every_setting_of_gateway_toml_has_a_row() -> None:
    settings = [f"{section}.{item.name}" for section, kind in SECTIONS.items() for item in fields(kind)]
    settings += [f'{FEDERATION}."NAME".{item.name}' for item in fields(FederationSettings)]
    assert [name for name in settings if f"`{name}`" not in PAGE] == []


def test_every_exit_code_has_a_row() -> None:
    rows = [f"| {item.value} | {item.name.lower().replace('_', ' ')} |" for item in Exit]
    assert [row for row in rows if row not in PAGE] == []


def commands(app: object, prefix: str) -> list[str]:
    root = typer.main.get_group(app) if isinstance(app, typer.Typer) else app
    nested = getattr(root, "commands", {})
    found = [command for name, inner in nested.items() for command in commands(inner, f"{prefix} {name}")]
    return found or [prefix]


def test_every_command_has_a_row() -> None:
    assert [name for name in commands(program, "stepgrant") if f"| `{name}" not in PAGE] == []


def test_every_key_of_the_catalog_is_named() -> None:
    keys: set[str] = set()
    for file in ("catalog_reader.py", "parameters.py"):
        text = (READERS / file).read_text(encoding="utf-8")
        for group in re.findall(r"(?:required|optional|flags)\s*=\s*\(([^)]*)\)", text):
            keys |= set(re.findall(r'"([a-z_]+)"', group))
    for group in re.findall(r'"(?:string|integer|number|array)": \(([^)]*)\)', (READERS / "parameters.py").read_text()):
        keys |= set(re.findall(r'"([a-z_]+)"', group))
    assert {"label_memory", "verifiers", "min_length", "free_form", "window"} <= keys
    assert sorted(key for key in keys if f"`{key}`" not in PAGE) == []


def test_the_policy_and_the_cases_of_a_hand_off_hold() -> None:
    """Over the support desk, in whose trust domain they are read."""
    section = PAGE.partition("### Steps that are handed on")[2].partition("### What a decision does")[0]
    [cedar] = re.findall(r"```cedar\n(.*?)```", section, re.DOTALL)
    [cases] = re.findall(r"```yaml\n(.*?)```", PAGE.partition("## Golden cases")[2], re.DOTALL)
    files = support_files()
    more = {"handing.cedar": cedar, "tests/handing.yaml": cases}
    read = {name: text.replace("//acme.org/", "//dev.stepgrant.test/").encode() for name, text in more.items()}
    assert load_files({**files, **read}).case_count == load_files(files).case_count + cases.count("- name:")
