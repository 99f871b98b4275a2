"""Annotations: the few that there are, their values, and which policies may carry them (design 5.3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from stepgrant_gateway.core.errors import Finding
from stepgrant_gateway.policy.durations import DURATION_FORM, parse_duration
from stepgrant_gateway.policy.findings import nearest
from stepgrant_gateway.policy.statements import Statement

MAX_REASON: Final = 256
"""Characters of `@reason` and `@unbound`: a reason travels in every denial."""
MAX_USES: Final = 1000

_PERMIT_ONLY: Final = frozenset({"ttl", "uses", "unbound"})
_FORBID_ONLY: Final = frozenset({"reason"})
_KNOWN: Final = _PERMIT_ONLY | _FORBID_ONLY | {"id"}
_NOT_ENFORCED: Final = frozenset({"approval", "tier", "shadow"})
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_USES: Final = re.compile(r"[1-9][0-9]{0,3}")


@dataclass(frozen=True, slots=True)
class Annotations:
    """What the annotations of one policy say. `reason` is for the agent, `unbound` says why a sink is left open."""

    ttl: timedelta | None = None
    uses: int | None = None
    reason: str = ""
    unbound: str = ""


def read_annotations(statements: tuple[Statement, ...]) -> tuple[Mapping[int, Annotations], tuple[Finding, ...]]:
    """The annotations of each policy by its number, and everything that is wrong with them."""
    found: dict[int, Annotations] = {}
    findings: list[Finding] = []
    first: dict[str, Statement] = {}
    for statement in statements:
        findings += _check_names(statement)
        policy_id = statement.place.policy_id
        if policy_id and first.setdefault(policy_id, statement) is not statement:
            other = first[policy_id].place
            findings.append(
                statement.finding(f'@id("{policy_id}") is taken by the policy at {other.file}:{other.line}.')
            )
        values, wrong = _read_values(statement)
        found[statement.number] = values
        findings += wrong
    return found, tuple(findings)


def _check_names(statement: Statement) -> list[Finding]:
    findings: list[Finding] = []
    names = statement.annotations
    if "id" not in names:
        findings.append(statement.finding('This policy has no @id: write @id("a-name") before it.'))
    elif _ID.fullmatch(names["id"] or "") is None:
        findings.append(
            statement.finding("@id is not 1 to 128 of A-Z a-z 0-9 . _ / -, beginning with a letter or digit.")
        )
    effect = "permit" if statement.permits else "forbid"
    for name in names:
        if name in _NOT_ENFORCED:
            findings.append(
                statement.finding(f"@{name} is not enforced by this version, so a set that relies on it is refused.")
            )
        elif name not in _KNOWN:
            close = nearest(name, _KNOWN | _NOT_ENFORCED)
            findings.append(statement.finding(f"@{name} is not an annotation.", f"@{close}" if close else ""))
        elif name in (_FORBID_ONLY if statement.permits else _PERMIT_ONLY):
            other = "forbid" if statement.permits else "permit"
            findings.append(statement.finding(f"@{name} belongs on a {other}; this is a {effect}."))
    return findings


def _read_values(statement: Statement) -> tuple[Annotations, list[Finding]]:
    names, findings = statement.annotations, []
    ttl = uses = None
    if "ttl" in names:
        ttl = parse_duration(names["ttl"] or "")
        if ttl is None:
            findings.append(statement.finding(f"@ttl is not {DURATION_FORM}."))
    if "uses" in names:
        text = names["uses"] or ""
        if _USES.fullmatch(text) is None or int(text) > MAX_USES:
            findings.append(statement.finding(f"@uses is not a whole number from 1 to {MAX_USES}."))
        else:
            uses = int(text)
    texts = {}
    for name in ("reason", "unbound"):
        texts[name] = (names.get(name) or "").strip()
        if name in names and not (0 < len(texts[name]) <= MAX_REASON and texts[name].isprintable()):
            findings.append(statement.finding(f"@{name} is not a text of 1 to {MAX_REASON} printable characters."))
    return Annotations(ttl, uses, texts["reason"], texts["unbound"]), findings
