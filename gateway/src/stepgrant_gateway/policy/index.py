"""The index by scope: a decision looks only at policies that can match, however many there are (design 5.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from stepgrant_gateway.policy.expressions import Entity, conjuncts, demanded_workload
from stepgrant_gateway.policy.scope import scope_entities
from stepgrant_gateway.policy.statements import Statement

_ANY: Final = None
_Principal = Entity | str | None
"""A task or a group of tasks; the entity type of a task; or any."""
_Leaves = dict[Entity | None, dict[Entity | None, int]]
"""By workload, then by resource: the number of a leaf."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """A request as scopes see it: each entity with all that it is in, itself included."""

    actions: tuple[str, ...]
    principal_type: str
    principals: frozenset[Entity]
    resources: frozenset[Entity]


@dataclass(frozen=True, slots=True)
class ScopeIndex:
    """Policies by action, principal, workload and resource. A leaf holds those that share all four, by number."""

    tree: Mapping[str | None, Mapping[_Principal, _Leaves]]
    leaves: tuple[tuple[int, ...], ...]

    def matching(self, lineage: Lineage) -> tuple[int, ...]:
        """Leaves that together hold every policy whose scope the request matches, and few others. Sorted."""
        found: list[int] = []
        for action in (*lineage.actions, _ANY):
            by_principal = self.tree.get(action)
            if by_principal is None:
                continue
            for principal in (lineage.principal_type, *lineage.principals, _ANY):
                by_workload = by_principal.get(principal)
                if by_workload is None:
                    continue
                for workload in (*lineage.principals, _ANY):
                    by_resource = by_workload.get(workload)
                    if by_resource is not None:
                        found += _pick(by_resource, lineage.resources)
        return tuple(sorted(set(found)))


def build_index(statements: Iterable[Statement]) -> ScopeIndex:
    """The index of a set."""
    tree: dict[str | None, dict[_Principal, _Leaves]] = {}
    leaves: list[list[int]] = []
    for statement in statements:
        principal, workload = _principal_of(statement.document)
        resource = _entity(scope_entities(statement.document["resource"]))
        for action in _actions_of(statement.document):
            by_resource = tree.setdefault(action, {}).setdefault(principal, {}).setdefault(workload, {})
            if resource not in by_resource:
                by_resource[resource] = len(leaves)
                leaves.append([])
            leaves[by_resource[resource]].append(statement.number)
    return ScopeIndex(tree, tuple(tuple(leaf) for leaf in leaves))


def lineage_of(
    action: str,
    action_groups: tuple[str, ...],
    principal: Mapping[str, str],
    resource: Mapping[str, str],
    entities: Iterable[Mapping[str, Any]],
) -> Lineage:
    """What a request is in, from the parents that its own entities name."""
    parents = {
        (entity["uid"]["type"], entity["uid"]["id"]): tuple((p["type"], p["id"]) for p in entity["parents"])
        for entity in entities
    }
    return Lineage(
        (action, *action_groups),
        principal["type"],
        _ancestry((principal["type"], principal["id"]), parents),
        _ancestry((resource["type"], resource["id"]), parents),
    )


def _ancestry(
    start: tuple[str, str], parents: Mapping[tuple[str, str], tuple[tuple[str, str], ...]]
) -> frozenset[Entity]:
    seen, pending = {start}, [start]
    while pending:
        for parent in parents.get(pending.pop(), ()):
            if parent not in seen:
                seen.add(parent)
                pending.append(parent)
    return frozenset(Entity(kind, name) for kind, name in seen)


def _pick(by_resource: Mapping[Entity | None, int], resources: frozenset[Entity]) -> list[int]:
    if len(by_resource) <= len(resources):
        return [leaf for resource, leaf in by_resource.items() if resource is _ANY or resource in resources]
    return [by_resource[resource] for resource in (*resources, _ANY) if resource in by_resource]


def _actions_of(document: Mapping[str, Any]) -> tuple[str | None, ...]:
    action = document["action"]
    if action["op"] == "All":
        return (_ANY,)
    return tuple({entity["id"] for entity in scope_entities(action)})


def _principal_of(document: Mapping[str, Any]) -> tuple[_Principal, Entity | None]:
    """Whom a policy is about, and the workload that its scope or its very first condition demands.

    Only the first: what stands behind another condition is not reached when that one errs, and an error denies.
    """
    principal = document["principal"]
    named = _entity(scope_entities(principal))
    workload = named if named is not None and named.type == "Workload" else None
    who: _Principal = principal.get("entity_type")
    if who is None and workload is None:
        who = named
    return who, workload or _first_condition(document)


def _first_condition(document: Mapping[str, Any]) -> Entity | None:
    parts = conjuncts(document["conditions"][:1])
    return demanded_workload(parts[0]) if parts else None


def _entity(named: tuple[Mapping[str, str], ...]) -> Entity | None:
    return Entity(named[0]["type"], named[0]["id"]) if named else None
