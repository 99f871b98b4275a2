"""Cedar's validator against the derived schema, with its messages brought to file, line and nearest name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import cedarpy

from stepgrant_gateway.core.errors import Finding
from stepgrant_gateway.policy.expressions import Node, conjunction, conjuncts, constant, contradiction
from stepgrant_gateway.policy.findings import nearest
from stepgrant_gateway.policy.statements import Statement, set_document

_PREFIX: Final = re.compile(r"^for policy `policy\d+`[,:] ")
_REPORTED_ELSEWHERE: Final = re.compile(
    r"unrecognized action |unrecognized entity type `Task::|entity .* is of an enumerated"
)
"""`names` and `checks` say these better, and Cedar blames valid names of the same policy along with a wrong one."""
_NOT_APPLICABLE: Final = "unable to find an applicable action"
_ATTRIBUTE: Final = re.compile(r"attribute `([\w.]+)`.* not found")
_ENTITY_TYPE: Final = re.compile(r"unrecognized entity type `([\w:]+)`")
_NAMES_IN_SCHEMA: Final = re.compile(r"\b([A-Za-z_]\w*)\"?\??\s*:(?!:)")
_TYPES_IN_SCHEMA: Final = re.compile(r"\bentity ([A-Za-z_]\w*)")
_ILL_TYPED: Final[Node] = {"<": {"left": {"Value": 1}, "right": {"Value": "one"}}}
_PROBED_AT_ONCE: Final = 200
"""Nearly every probe is an error, and collecting those of one call costs more than linear."""
_ALWAYS_FALSE: Final = "The conditions of this {effect} can never hold, so it never applies: mend them, or remove it."
_ALWAYS_TRUE: Final = "A condition of this permit always holds, so it restricts nothing: mend it, or remove it."


def validate(statements: tuple[Statement, ...], schema: str, reported: frozenset[tuple[str, int]]) -> Iterator[Finding]:
    """What Cedar's validator refuses. `reported`: (file, line) of policies that already have a finding."""
    checked = cedarpy.Schema.from_str(schema)
    if not statements:
        return
    result = cedarpy.validate_policies("\n".join(statement.text for statement in statements), checked)
    if not result.validation_passed and not result.errors:
        yield Finding(statements[0].place.file, 0, "", "Cedar refuses this set without saying why.")
    for error in result.errors:
        number = re.fullmatch(r"policy(\d+)", error.policy_id)
        message = _PREFIX.sub("", error.error).split("\n")[0]
        if number is None:
            yield Finding(statements[0].place.file, 0, "", f"Cedar refuses this set: {message}.")
            continue
        statement = statements[int(number[1])]
        known = (statement.place.file, statement.place.line) in reported
        if known and (_REPORTED_ELSEWHERE.match(message) or message.startswith(_NOT_APPLICABLE)):
            continue
        yield _translate(statement, message, schema)


def check_constants(statements: tuple[Statement, ...], schema: str) -> Iterator[Finding]:
    """Policies whose conditions come to the same whatever is asked. Only for statements that validate."""
    checked = cedarpy.Schema.from_str(schema)
    starts = range(0, len(statements), _PROBED_AT_ONCE)
    impossible = frozenset[int]().union(*(_impossible(statements[n : n + _PROBED_AT_ONCE], checked) for n in starts))
    for statement in statements:
        parts = conjuncts(statement.document["conditions"])
        outcomes = [constant(part, _evaluate) for part in parts]
        if statement.number in impossible or False in outcomes or contradiction(parts):
            yield statement.finding(_ALWAYS_FALSE.format(effect=statement.document["effect"]))
        elif statement.permits and True in outcomes:
            yield statement.finding(_ALWAYS_TRUE)


def _impossible(statements: tuple[Statement, ...], schema: cedarpy.Schema) -> frozenset[int]:
    """Numbers of the policies whose conditions have the type False wherever they can apply.

    Cedar's validator does not look into a branch that it knows to be dead: put an ill-typed expression there, and
    exactly those policies validate whose conditions it knows to be false (`principal is Task::Other`, `1 == 2`).
    """
    probes: dict[str, Mapping[str, Any]] = {}
    for statement in statements:
        parts = conjuncts(statement.document["conditions"])
        if parts:
            branch = {"if": conjunction(parts), "then": _ILL_TYPED, "else": {"Value": True}}
            body = {"kind": "when", "body": {"if-then-else": branch}}
            # Text loses the ids and the order is Cedar's own, so each probe carries its number in an annotation.
            note = {"id": str(statement.number)}
            probes[str(statement.number)] = {**statement.document, "annotations": note, "conditions": [body]}
    if not probes:
        return frozenset()
    text = cedarpy.policies_from_json_str(set_document(probes))
    result = cedarpy.validate_policies(text, schema)
    if not result.validation_passed and not all(error.policy_id for error in result.errors):
        return frozenset()
    possible = {result.id_annotations_by_policy_id[error.policy_id] for error in result.errors}
    return frozenset(int(number) for number in probes if number not in possible)


def _evaluate(node: Node) -> bool | None:
    """What an expression without variables comes to; None if it errs."""
    policy = {
        "effect": "permit",
        **{part: {"op": "All"} for part in ("principal", "action", "resource")},
        "conditions": [{"kind": "when", "body": node}],
    }
    anyone = {"type": "Nobody", "id": ""}
    request = {"principal": anyone, "action": {"type": "Action", "id": ""}, "resource": anyone, "context": {}}
    answer = cedarpy.is_authorized(request, cedarpy.PolicySet.from_json_str(set_document({"0": policy})), [])
    return None if answer.diagnostics.errors else bool(answer.allowed)


def _translate(statement: Statement, message: str, schema: str) -> Finding:
    attribute, entity_type = _ATTRIBUTE.match(message), _ENTITY_TYPE.match(message)
    if message.startswith(_NOT_APPLICABLE):
        return statement.finding("No request can ever have this principal, action and resource together.")
    if attribute is not None:
        *holder, name = attribute[1].split(".")
        near = nearest(name, _NAMES_IN_SCHEMA.findall(schema))
        return statement.finding(f"{_capital(message)}.", ".".join([*holder, near]) if near else "")
    if entity_type is not None:
        types = [*_TYPES_IN_SCHEMA.findall(schema)]
        spelled = [f"Task::{name}" if f"  entity {name} " in schema else name for name in types]
        return statement.finding(f"{_capital(message)}.", nearest(entity_type[1], spelled))
    if message.startswith("unable to guarantee safety of access to optional"):
        return statement.finding(f"{_capital(message)}: ask with `has` first.")
    return statement.finding(f"{_capital(message)}.")


def _capital(message: str) -> str:
    text = json.dumps(message[:512], ensure_ascii=False)[1:-1].replace('\\"', '"')
    return text[:1].upper() + text[1:]
