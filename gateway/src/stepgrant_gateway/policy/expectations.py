"""What a golden case expects, what came, and where the two differ."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from stepgrant.errors import DenialCode
from stepgrant.grant import Tier
from stepgrant_gateway.policy.yaml_reader import Value

UNLIMITED: Final = "unlimited"
"""How a case says that uses are not limited within the lifetime."""
_MAX_POLICIES: Final = 1000


@dataclass(frozen=True, slots=True)
class Expected:
    """The parts of a decision that a case names; None is not looked at. `uses` 0 = unlimited."""

    granted: bool
    code: DenialCode | None = None
    argument: str | None = None
    tier: Tier | None = None
    ttl: timedelta | None = None
    uses: int | None = None
    policies: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Came:
    """The decision that a case came to. `uses` None = not limited."""

    granted: bool
    code: DenialCode | None = None
    argument: str = ""
    tier: Tier | None = None
    ttl: timedelta | None = None
    uses: int | None = None
    policies: frozenset[str] = frozenset()
    errors: tuple[str, ...] = ()


def read_expected(expect: Value) -> Expected:
    """The expectation; raises PolicyRefusedError for one that cannot be, or that this version cannot meet."""
    granted_only, denied_only = ("tier", "ttl", "uses"), ("code", "argument")
    keys = expect.section(
        "`expect`", required=("decision",), optional=(*granted_only, *denied_only, "policies", "approvals")
    )
    decision = keys["decision"].choice("`decision`", ("granted", "denied", "pending"))
    if decision == "pending" or "approvals" in keys:
        expect.refuse("Approvals are not enforced by this version, so no decision is ever pending.")
    for name in denied_only if decision == "granted" else granted_only:
        if name in keys:
            expect.refuse(f"`{name}` says nothing about a decision that is {decision}.", key=name)
    uses = None
    if "uses" in keys:
        unlimited = keys["uses"].data == UNLIMITED
        uses = 0 if unlimited else keys["uses"].count("`uses`", least=1, most=1_000_000)
    policies = None
    if "policies" in keys:
        listed = keys["policies"].items("`policies`", most=_MAX_POLICIES)
        policies = frozenset(item.text("`policies`") for item in listed)
    codes = tuple(code.value for code in DenialCode)
    return Expected(
        granted=decision == "granted",
        code=DenialCode(keys["code"].choice("`code`", codes)) if "code" in keys else None,
        argument=keys["argument"].text("`argument`") if "argument" in keys else None,
        tier=Tier(keys["tier"].choice("`tier`", tuple(tier.value for tier in Tier))) if "tier" in keys else None,
        ttl=keys["ttl"].duration("`ttl`") if "ttl" in keys else None,
        uses=uses,
        policies=policies,
    )


def differences(expected: Expected, came: Came) -> tuple[str, ...]:
    """Each part that came out differently, as `what: expected x, came y`."""
    if expected.granted != came.granted:
        return (f"decision: expected {_decision(expected.granted, expected.code)}, came {_described(came)}",)
    found = []
    pairs = (
        ("code", expected.code.value if expected.code else None, came.code.value if came.code else ""),
        ("argument", expected.argument, came.argument),
        ("tier", expected.tier.value if expected.tier else None, came.tier.value if came.tier else ""),
        ("ttl", _seconds(expected.ttl), _seconds(came.ttl)),
        ("uses", _uses(expected.uses), _uses(came.uses or 0)),
        (
            "policies",
            _listed(expected.policies) if expected.policies is not None else None,
            _listed(came.policies),
        ),
    )
    for what, wanted, got in pairs:
        if wanted is not None and wanted != got:
            found.append(f"{what}: expected {wanted}, came {got or 'none'}")
    return tuple(found)


def _described(came: Came) -> str:
    text = _decision(came.granted, came.code)
    if came.argument:
        text += f" over `{came.argument}`"
    return f"{text} by {_listed(came.policies)}" if came.policies else text


def _decision(granted: bool, code: DenialCode | None) -> str:
    return "granted" if granted else f"denied ({code.value})" if code else "denied"


def _seconds(span: timedelta | None) -> str | None:
    return None if span is None else f"{span.total_seconds():g}s"


def _uses(uses: int | None) -> str | None:
    return None if uses is None else str(uses or UNLIMITED)


def _listed(policies: frozenset[str]) -> str:
    return "[" + ", ".join(sorted(policies)) + "]"
