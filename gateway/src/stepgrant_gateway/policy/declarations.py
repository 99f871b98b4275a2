"""What catalog.yaml says, each value with its place, before tool documents are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stepgrant.grant import Tier
from stepgrant_gateway.core.decision import Audience, Budget, TaskType
from stepgrant_gateway.policy.shapes import Format, Shape
from stepgrant_gateway.policy.yaml_reader import Value


@dataclass(frozen=True, slots=True)
class TaskDeclaration:
    """A task type, the shape of its parameters, and which of them are sensitive."""

    task_type: TaskType
    parameters: Shape
    sensitive: frozenset[str]


@dataclass(frozen=True, slots=True)
class ArgumentDeclaration:
    """What the catalog adds to an argument of a tool's schema."""

    place: Value
    sink: bool = False
    format: Format | None = None
    min_items: int = 0
    unique: bool = False
    sensitive: bool = False
    hidden: bool = False
    free_form: bool = False


@dataclass(frozen=True, slots=True)
class ToolDeclaration:
    """A tool as the catalog declares it. `name` is in full; `own_name` is the one in the tool document."""

    place: Value
    name: str
    own_name: str
    document: str
    audience: Audience
    effects: frozenset[str]
    tier: Tier
    target: str
    labels: frozenset[str]
    arguments: Mapping[str, ArgumentDeclaration]
    calls: Value | None


@dataclass(frozen=True, slots=True)
class TargetRule:
    """Targets that match belong to `groups`; `tier` None = the tool's own."""

    match: str
    groups: frozenset[str]
    tier: Tier | None


@dataclass(frozen=True, slots=True)
class BudgetDeclaration:
    """A budget and what counts for it: `server.tool` names, or for a sum `server.tool.argument` paths."""

    budget: Budget
    members: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Declarations:
    """All of catalog.yaml."""

    workload_roots: tuple[str, ...]
    dispatcher_roots: tuple[str, ...]
    tasks: Mapping[str, TaskDeclaration]
    subject_claims: Shape
    sensitive_claims: frozenset[str]
    servers: Mapping[str, frozenset[str]]
    documents: Mapping[str, Value]
    tools: Mapping[str, ToolDeclaration]
    targets: tuple[TargetRule, ...]
    budgets: Mapping[str, BudgetDeclaration]
