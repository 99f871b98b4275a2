"""Scopes: which actions and task types the first line of a policy can apply to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from stepgrant_gateway.core.decision import ASSIGN_ACTION, TASK_ACTIONS
from stepgrant_gateway.policy.catalog import LoadedCatalog
from stepgrant_gateway.policy.catalog_reader import EFFECTS

TASK_NAMESPACE: Final = "Task::"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The names of a catalog as policies use them. Groups map to their members."""

    task_types: frozenset[str]
    type_groups: Mapping[str, frozenset[str]]
    tools: frozenset[str]
    task_actions: frozenset[str]
    action_groups: Mapping[str, frozenset[str]]
    enumerations: Mapping[str, frozenset[str]]

    @property
    def actions(self) -> frozenset[str]:
        """Every action that a request can have, those of the task as a whole included."""
        return self.tools | self.task_actions


def vocabulary_of(catalog: LoadedCatalog) -> Vocabulary:
    """The names that policies over this catalog may use."""
    groups = {effect: frozenset(n for n, tool in catalog.tools.items() if effect in tool.effects) for effect in EFFECTS}
    servers = {f"{server}.*": frozenset(tools) for server, tools in catalog.servers.items()}
    type_groups = {
        group: frozenset(name for name, task_type in catalog.task_types.items() if group in task_type.groups)
        for group in catalog.task_groups
    }
    return Vocabulary(
        task_types=frozenset(catalog.task_types),
        type_groups=type_groups,
        tools=frozenset(catalog.tools),
        # Nobody can assign where the catalog has no dispatchers.
        task_actions=TASK_ACTIONS if catalog.dispatcher_roots else TASK_ACTIONS - {ASSIGN_ACTION},
        action_groups={**groups, **servers},
        enumerations={
            "TaskGroup": catalog.task_groups,
            "Label": catalog.labels,
            "Tool": frozenset(catalog.tools),
            "TargetGroup": catalog.target_groups,
        },
    )


def scope_entities(part: Mapping[str, Any]) -> tuple[Mapping[str, str], ...]:
    """The entities that one part of a scope (`principal`, `action`, `resource`) names."""
    if "entities" in part:
        return tuple(part["entities"])
    inner = part.get("in")
    named = part.get("entity", inner.get("entity") if inner else None)
    return () if named is None else (named,)


def actions_of(document: Mapping[str, Any], vocabulary: Vocabulary) -> frozenset[str]:
    """Actions that a policy can apply to; groups are resolved, unknown names are left out."""
    action = document["action"]
    if action["op"] == "All":
        return vocabulary.actions
    found: set[str] = set()
    for entity in scope_entities(action):
        found |= {entity["id"]} & vocabulary.actions
        if action["op"] == "in":
            found |= vocabulary.action_groups.get(entity["id"], frozenset())
    return frozenset(found)


def task_types_of(document: Mapping[str, Any], vocabulary: Vocabulary) -> frozenset[str]:
    """Task types that a policy can apply to, as far as its scope says."""
    principal = document["principal"]
    named = scope_entities(principal)
    types = vocabulary.task_types
    if "entity_type" in principal:
        types &= {principal["entity_type"].removeprefix(TASK_NAMESPACE)}
    for entity in named:
        if entity["type"] == "TaskGroup":
            types &= vocabulary.type_groups.get(entity["id"], frozenset())
        elif principal["op"] == "==":
            types &= {entity["type"].removeprefix(TASK_NAMESPACE)}
    return types
