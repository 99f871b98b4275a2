"""The table of what prompts become, and the two promises that it and the policy make."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import yaml

HERE: Final = Path(__file__).resolve().parent
_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?")
_TELLING: Final = 6
"""Characters from which on a benchmark's value is more than an everyday word."""


@dataclass(frozen=True, slots=True)
class Request:
    """One task that the host program opens: its type and the customer's words as parameters."""

    task_type: str
    parameters: Mapping[str, Any]


def read_table(path: Path = HERE / "tasks.yaml") -> dict[str, tuple[Request, ...]]:
    """The requests of each user task."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {
        name: tuple(Request(entry["type"], entry.get("parameters", {})) for entry in entries)
        for name, entries in document.items()
    }


def not_in_prompt(requests: Iterable[Request], prompt: str) -> list[str]:
    """Parameters whose value the customer did not say: strings word for word, numbers by value."""
    numbers = {Decimal(found) for found in _NUMBER.findall(prompt)}
    return [
        f"{request.task_type}.{name}"
        for request in requests
        for name, value in request.parameters.items()
        if not (value in prompt if isinstance(value, str) else Decimal(str(value)) in numbers)
    ]


def named_by_policy(values: Iterable[Any], directory: Path = HERE / "policy") -> list[str]:
    """Values of the benchmark's calls that a rule, the catalog or a golden case names. There must be none."""
    files = sorted(path for path in directory.rglob("*") if path.suffix in {".cedar", ".yaml"})
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    told = {str(value) for value in values if isinstance(value, str) and len(value) >= _TELLING}
    return sorted(value for value in told if value in text)
