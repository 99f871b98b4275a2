"""Load checks of invariant 1: what Cedar's validator lets through and a permit must not do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from stepgrant_gateway.core.decision import ASSIGN_ACTION, HAND_OFF_ACTION
from stepgrant_gateway.core.errors import Finding
from stepgrant_gateway.policy.annotations import Annotations
from stepgrant_gateway.policy.catalog import LoadedCatalog
from stepgrant_gateway.policy.expressions import conjuncts, demanded_workload, paths
from stepgrant_gateway.policy.findings import nearest
from stepgrant_gateway.policy.scope import TASK_NAMESPACE, Vocabulary, actions_of, scope_entities
from stepgrant_gateway.policy.statements import Statement

_PRINCIPAL: str = (
    "The principal of a permit is the task, never the workload: write `principal is Task::X in "
    'Workload::"spiffe://..."` or `principal in TaskGroup::"g"`; this one'
)


def check_permits(
    statements: tuple[Statement, ...],
    annotations: Mapping[int, Annotations],
    catalog: LoadedCatalog,
    vocabulary: Vocabulary,
) -> Iterator[Finding]:
    """What is wrong with the scopes and the conditions of permits (design, invariant 1)."""
    for statement in statements:
        if statement.permits:
            yield from _check_principal(statement, vocabulary)
            yield from _check_action(statement)
            yield from _check_dispatcher(statement, annotations[statement.number], vocabulary)
            yield from _check_receiver(statement, annotations[statement.number], vocabulary)
            yield from _check_sinks(statement, annotations[statement.number], catalog, vocabulary)


def check_needless_unbound(
    statements: tuple[Statement, ...],
    annotations: Mapping[int, Annotations],
    catalog: LoadedCatalog,
    vocabulary: Vocabulary,
) -> Iterator[Finding]:
    """Warnings: an @unbound that excuses nothing hides the one that is added by mistake later."""
    for statement in statements:
        anyone = _for_any_dispatcher(statement, vocabulary) or _for_any_receiver(statement, vocabulary)
        if annotations[statement.number].unbound and not anyone and not _open_sinks(statement, catalog, vocabulary):
            yield statement.finding("@unbound excuses nothing: every sink argument is named by a condition.")


def _check_principal(statement: Statement, vocabulary: Vocabulary) -> Iterator[Finding]:
    principal = statement.document["principal"]
    named = scope_entities(principal)
    if principal["op"] == "is":
        name = principal["entity_type"]
        if not name.startswith(TASK_NAMESPACE):
            yield statement.finding(f"{_PRINCIPAL} is a {name}.")
        elif name.removeprefix(TASK_NAMESPACE) not in vocabulary.task_types:
            close = nearest(name, (TASK_NAMESPACE + known for known in vocabulary.task_types))
            yield statement.finding(f"{name} is not a task type of the catalog.", close)
        for entity in named:
            if entity["type"] not in {"Workload", "TaskGroup"}:
                yield statement.finding(f"{_PRINCIPAL} is in a {entity['type']}.")
    elif principal["op"] == "in" and named[0]["type"] == "TaskGroup":
        return
    elif principal["op"] == "All":
        yield statement.finding(f"{_PRINCIPAL} names none.")
    else:
        yield statement.finding(f"{_PRINCIPAL} is `{principal['op']} {named[0]['type']}`.")


def _check_action(statement: Statement) -> Iterator[Finding]:
    if statement.document["action"]["op"] == "All":
        yield statement.finding(
            'The action of a permit must be named: `action == Action::"server.tool"`, `action in [...]`, or a group.'
        )


def _check_dispatcher(statement: Statement, annotations: Annotations, vocabulary: Vocabulary) -> Iterator[Finding]:
    if not annotations.unbound and _for_any_dispatcher(statement, vocabulary):
        yield statement.finding(
            "No condition names context.assign.by, so whoever has an SVID could assign this task: say "
            '`context.assign.by in Dispatcher::"spiffe://..."`, or why not with @unbound("...").'
        )


def _for_any_dispatcher(statement: Statement, vocabulary: Vocabulary) -> bool:
    """True if a policy is about assigning, and no condition uses who does it."""
    about = ASSIGN_ACTION in actions_of(statement.document, vocabulary)
    return about and ("context", "assign", "by") not in _named(statement)


def _check_receiver(statement: Statement, annotations: Annotations, vocabulary: Vocabulary) -> Iterator[Finding]:
    if not annotations.unbound and _for_any_receiver(statement, vocabulary):
        yield statement.finding(
            "No condition names context.hand_off.to, and the scope names no workload, so any could receive: say "
            '`context.hand_off.to in Workload::"spiffe://..."`, or why not with @unbound("...").'
        )


def _for_any_receiver(statement: Statement, vocabulary: Vocabulary) -> bool:
    """True if a policy is about handing on, and binds neither who receives nor the workload that it is asked about.

    The receiver is one of those: so a permit for a workload lets no other one receive.
    """
    if HAND_OFF_ACTION not in actions_of(statement.document, vocabulary):
        return False
    if any(entity["type"] == "Workload" for entity in scope_entities(statement.document["principal"])):
        return False
    demanded = map(demanded_workload, conjuncts(statement.document["conditions"]))
    return not any(demanded) and ("context", "hand_off", "to") not in _named(statement)


def _named(statement: Statement) -> frozenset[tuple[str, ...]]:
    """What the conditions use the value of."""
    return frozenset(path for part in conjuncts(statement.document["conditions"]) for path in paths(part))


def _check_sinks(
    statement: Statement, annotations: Annotations, catalog: LoadedCatalog, vocabulary: Vocabulary
) -> Iterator[Finding]:
    if annotations.unbound:
        return
    for tool, argument in _open_sinks(statement, catalog, vocabulary):
        yield statement.finding(
            f"No condition names `{argument}`, a sink argument of {tool}: bind context.args.{argument} (or its "
            'context.parts), or say why not with @unbound("...").'
        )


def _open_sinks(statement: Statement, catalog: LoadedCatalog, vocabulary: Vocabulary) -> tuple[tuple[str, str], ...]:
    """Sink arguments that no condition uses the value of. `has` and `context.count` bind nothing."""
    named = {
        path[2]
        for path in _named(statement)
        if len(path) > 2 and path[:2] in {("context", "args"), ("context", "parts")}
    }
    return tuple(
        (tool, argument)
        for tool in sorted(actions_of(statement.document, vocabulary))
        for argument in sorted(catalog.sinks.get(tool, frozenset()) - named)
    )
