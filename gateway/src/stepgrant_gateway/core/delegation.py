"""Envelopes: what the children of a step may do. A child can only narrow (invariant 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from stepgrant.intent import Json, canonical


@dataclass(frozen=True, slots=True)
class Exact:
    """The argument equals `value`."""

    value: Json


@dataclass(frozen=True, slots=True)
class OneOf:
    """The argument equals one of `values`."""

    values: tuple[Json, ...]


@dataclass(frozen=True, slots=True)
class AtMost:
    """The argument is a number, at most `bound`."""

    bound: Decimal


@dataclass(frozen=True, slots=True)
class Prefix:
    """The argument is a string equal to `prefix` or below it by whole `/`-separated segments, without `.` or `..`."""

    prefix: str


@dataclass(frozen=True, slots=True)
class SubsetOf:
    """The argument is an array, each element of which is one of `values`."""

    values: tuple[Json, ...]


@dataclass(frozen=True, slots=True)
class AnyValue:
    """Whatever the tool's schema admits."""


Constraint = Exact | OneOf | AtMost | Prefix | SubsetOf | AnyValue


@dataclass(frozen=True, slots=True)
class Envelope:
    """Tools that children may call, with a constraint per argument. What is not named is refused."""

    tools: Mapping[str, Mapping[str, Constraint]]


def violation(envelope: Envelope, tool: str, arguments: Mapping[str, Json]) -> str | None:
    """None if the call is a member of the envelope, else what is outside it (safe to show to the agent)."""
    constraints = envelope.tools.get(tool)
    if constraints is None:
        return f"children of this step may not call {tool}"
    for name, value in arguments.items():
        constraint = constraints.get(name)
        if constraint is None:
            return f"children of this step may not pass `{name}` to {tool}"
        if not admits(constraint, value):
            return f"`{name}` of {tool} is outside what children of this step may pass"
    for name, constraint in constraints.items():
        if name not in arguments and isinstance(constraint, Exact):
            return f"children of this step must pass `{name}` to {tool}"
    return None


def admits(constraint: Constraint, value: Json) -> bool:
    """True if the value is one that the constraint allows."""
    match constraint:
        case AnyValue():
            return True
        case Exact(wanted):
            return _same(wanted, value)
        case OneOf(values):
            return canonical(value) in _forms(values)
        case AtMost(bound):
            return isinstance(value, Decimal) and value <= bound
        case Prefix(prefix):
            return isinstance(value, str) and _under(prefix, value)
        case SubsetOf(values):
            if not isinstance(value, list):
                return False
            forms = _forms(values)
            return all(canonical(one) in forms for one in value)


def contains(outer: Envelope, inner: Envelope) -> bool:
    """True if every call that `inner` admits is admitted by `outer`: tool by tool, constraint by constraint."""
    for tool, constraints in inner.tools.items():
        allowed = outer.tools.get(tool)
        if allowed is None:
            return False
        for name, constraint in constraints.items():
            if name not in allowed or not _within(allowed[name], constraint):
                return False
        for name, bound in allowed.items():
            if isinstance(bound, Exact) and not isinstance(constraints.get(name), Exact):
                return False
    return True


def _within(outer: Constraint, inner: Constraint) -> bool:
    match outer, inner:
        case AnyValue(), _:
            return True
        case _, Exact(value):
            return admits(outer, value)
        case OneOf(wider), OneOf(values):
            return bool(values) and _forms(values) <= _forms(wider)
        case _, OneOf(values):
            return bool(values) and all(admits(outer, value) for value in values)
        case AtMost(bound), AtMost(tighter):
            return tighter <= bound
        case Prefix(prefix), Prefix(longer):
            return _under(prefix, longer)
        case SubsetOf(), SubsetOf(fewer):
            return admits(outer, list(fewer))
        case _:
            return False


def _under(prefix: str, text: str) -> bool:
    segments = text.split("/")
    if "." in segments or ".." in segments:
        return False
    return text == prefix or text.startswith(prefix.rstrip("/") + "/")


def _forms(values: tuple[Json, ...]) -> frozenset[bytes]:
    """Each value in its one canonical form: looked up, since comparing each with each takes seconds at the bounds."""
    return frozenset(canonical(item) for item in values)


def _same(left: Json, right: Json) -> bool:
    return canonical(left) == canonical(right)
