"""Names in policies that Cedar takes as they come: workload paths, labels, tools, groups, actions."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Final

from stepgrant.errors import InvalidIdError
from stepgrant.grant import Tier
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant_gateway.core.decision import VOUCHERS
from stepgrant_gateway.core.errors import Finding
from stepgrant_gateway.policy.catalog import LoadedCatalog
from stepgrant_gateway.policy.expressions import Entity, Node, entities, nearest_entity, path_of, strings, walk
from stepgrant_gateway.policy.findings import nearest
from stepgrant_gateway.policy.scope import Vocabulary, actions_of, task_types_of
from stepgrant_gateway.policy.statements import Statement

_PARTS: Final = ("principal", "action", "resource", "conditions")
_WORDS: Final = {"TaskGroup": "group of task types", "Label": "label", "Tool": "tool", "TargetGroup": "target group"}
_COMPARISONS: Final = ("==", "!=", "contains", "containsAll", "containsAny", "in")
_CHAIN: Final = ("context", "step", "chain")
_COMPLETED: Final = ("context", "task", "completed")
_VOUCHED_BY: Final = ("context", "open", "vouched_by")


def check_names(statements: tuple[Statement, ...], catalog: LoadedCatalog, vocabulary: Vocabulary) -> Iterator[Finding]:
    """Literal entities that are not of the catalog, and workloads that are no SPIFFE ID under its roots."""
    for statement in statements:
        document = statement.document
        for entity in sorted(set(entities([document[part] for part in _PARTS]))):
            yield from _check_entity(statement, entity, catalog, vocabulary)
        for node in _comparisons(statement, _CHAIN):
            for text in sorted(set(strings(node))):
                yield from _check_workload(statement, text, catalog)
        for node in _comparisons(statement, _VOUCHED_BY):
            for text in sorted(set(strings(node)) - set(VOUCHERS)):
                yield statement.finding(f"Nobody vouches for a task as `{text}`.", nearest(text, VOUCHERS))


def check_completed(
    statements: tuple[Statement, ...], catalog: LoadedCatalog, vocabulary: Vocabulary
) -> Iterator[Finding]:
    """Rules on `context.task.completed` of tools that nothing ever witnesses: they can never hold (design 5.2)."""
    witnessed: set[tuple[str, str]] = set()
    for statement in statements:
        if not statement.permits:
            continue
        for tool in actions_of(statement.document, vocabulary) & vocabulary.tools:
            known = catalog.tools[tool]
            if "uses" in statement.annotations or not known.only_reads or known.tier is Tier.SENSITIVE:
                witnessed |= {(tool, name) for name in task_types_of(statement.document, vocabulary)}
    for statement in statements:
        types = task_types_of(statement.document, vocabulary)
        wanted = {
            entity.id
            for node in _comparisons(statement, _COMPLETED)
            for entity in entities(node)
            if entity.type == "Tool"
        }
        for tool in sorted(wanted & vocabulary.tools):
            if not any((tool, name) in witnessed for name in types):
                yield statement.finding(
                    f"{tool} can never be in context.task.completed: only redeemed calls count, and no permit for it "
                    'in these task types has finite uses. Give one @uses("1"), or ask context.task.reported.'
                )


def _check_entity(
    statement: Statement, entity: Entity, catalog: LoadedCatalog, vocabulary: Vocabulary
) -> Iterator[Finding]:
    if entity.type == "Workload":
        yield from _check_workload(statement, entity.id, catalog)
    elif entity.type == "Dispatcher":
        nobody = "`dispatchers` of catalog.yaml, so nobody assigns tasks by that name"
        yield from _check_spiffe_id(statement, entity, catalog.dispatcher_roots, nobody)
    elif entity.type == "Action":
        known = vocabulary.actions | set(vocabulary.action_groups)
        if entity.id not in known:
            near = nearest_entity(entity, tuple(known))
            yield statement.finding(f"No tool or group of tools is called `{entity.id}`.", near)
    elif entity.type in vocabulary.enumerations:
        members = vocabulary.enumerations[entity.type]
        if entity.id not in members:
            near = nearest_entity(entity, tuple(members))
            yield statement.finding(f"The catalog has no {_WORDS[entity.type]} `{entity.id}`.", near)


def _check_workload(statement: Statement, text: str, catalog: LoadedCatalog) -> Iterator[Finding]:
    nowhere = "`workloads` of catalog.yaml, so no task of this policy can run there"
    yield from _check_spiffe_id(statement, Entity("Workload", text), catalog.workload_roots, nowhere)


def _check_spiffe_id(statement: Statement, entity: Entity, roots: tuple[str, ...], outside: str) -> Iterator[Finding]:
    text, kind = entity.id, entity.type
    if not _valid(text):
        near = _nearest_workload(text, roots)
        yield statement.finding(
            f"`{text}` is not a SPIFFE ID: a {kind.lower()} is named in full, spiffe://trust-domain/path.",
            f'{kind}::"{near}"' if near else "",
        )
    elif not any(_below(text, root) for root in roots):
        near = _nearest_workload(text, roots)
        yield statement.finding(f"`{text}` does not lie under {outside}.", f'{kind}::"{near}"' if near else "")


def _nearest_workload(text: str, roots: tuple[str, ...]) -> str:
    """What was most likely meant: the path under a root, with or without what the root begins with, or mistyped there."""
    bare = text.removeprefix("spiffe:").strip("/")[:256]
    candidates = set(roots)
    for root in roots:
        domain = "/".join(root.split("/")[:3])
        rest = bare.split("/")[len(root.split("/")) - 2 :]
        candidates |= {f"{domain}/{bare}", f"{root}/{bare}", f"spiffe://{bare}", "/".join([root, *rest])}
    valid = [name for name in sorted(candidates) if _valid(name) and any(_below(name, root) for root in roots)]
    return max(valid, key=lambda name: SequenceMatcher(None, text, name).ratio(), default="")


def _valid(text: str) -> bool:
    try:
        parse_spiffe_id(text)
    except InvalidIdError:
        return False
    return True


def _below(text: str, root: str) -> bool:
    return text == root or text.startswith(root.rstrip("/") + "/")


def _comparisons(statement: Statement, path: tuple[str, ...]) -> Iterator[Node]:
    """Comparisons one side of which is this attribute."""
    if path[-1] not in statement.text:
        return  # Most policies: a search in the text is far cheaper than a walk.
    for node in walk(statement.document["conditions"]):
        for operator in _COMPARISONS:
            sides = node.get(operator)
            if isinstance(sides, dict) and path in {path_of(sides.get("left")), path_of(sides.get("right"))}:
                yield sides
