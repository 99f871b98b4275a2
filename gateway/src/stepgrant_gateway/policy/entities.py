"""One boundary as Cedar sees it: its parties and its context, as JSON values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from stepgrant.errors import ArgumentsInvalidError, Denial
from stepgrant.json_text import json_writer
from stepgrant_gateway.core.decision import HandingOn, Question, TaskFacts
from stepgrant_gateway.core.errors import GatewayError
from stepgrant_gateway.core.principal import Subject
from stepgrant_gateway.policy.arguments import admit, cedar_decimal
from stepgrant_gateway.policy.catalog import LoadedCatalog
from stepgrant_gateway.policy.reads import EVERYTHING, Reads

GATEWAY_ID: Final = "gateway"
"""The one resource of the actions of a task as a whole."""

_SCHEME: Final = "spiffe://"
_MILLISECOND: Final = timedelta(milliseconds=1)
_MAX_LONG: Final = 2**63 - 1
_written: Final = json_writer()


class UnrepresentableError(GatewayError):
    """A value that Cedar cannot hold exactly, such as a budget beyond its decimals: the decision is a deny."""

    code = "unrepresentable"


@dataclass(frozen=True, slots=True)
class Parties:
    """Who asks, to do what, to which: `{"type": ..., "id": ...}` each; `entities` are they, with all that they are in."""

    principal: dict[str, str]
    action: dict[str, str]
    resource: dict[str, str]
    entities: list[dict[str, Any]]

    def request(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """The first argument of `cedarpy.is_authorized`."""
        return {
            "principal": self.principal,
            "action": self.action,
            "resource": self.resource,
            "context": _written(context),
        }


def parties_of(catalog: LoadedCatalog, question: Question) -> Parties:
    """The task, the action and the target (or, for the task as a whole, the gateway), and whom its context names: who
    assigns or assigned it, or who hands on to whom.

    Raises:
        UnrepresentableError: a parameter is not what the catalog says.
    """
    call = question.call
    if call is None:
        resource, groups = _uid("Gateway", GATEWAY_ID), []
    else:
        resource = _uid("Target", call.target)
        groups = [_uid("TargetGroup", group) for group in call.target_groups]
    principal = _principal(catalog, question.task)
    entities = [principal, {"uid": resource, "attrs": {}, "parents": groups}]
    entities += [_below_its_path(kind, name) for kind, name in sorted(_named(question))]
    return Parties(principal["uid"], _uid("Action", question.action), resource, entities)


def context_of(catalog: LoadedCatalog, question: Question, reads: Reads = EVERYTHING) -> dict[str, Any]:
    """What the policies that read no more than `reads` can see beside the parties; the whole context by default.

    Raises:
        UnrepresentableError: a budget, a time or the tool of what is handed on is not what the catalog says, or beyond
            what Cedar holds.
    """
    call = question.call
    context: dict[str, Any] = {}
    budgets = _budget(catalog, question)
    handed_on = _handing_on(catalog, question.handing_on) if question.handing_on is not None else None
    if reads.nothing:
        return context
    if reads.of("budget"):
        context["budget"] = reads.only("budget", budgets)
    if reads.of("task"):
        context["task"] = reads.only("task", _task_state(catalog, question.task))
    if reads.of("step"):
        context["step"] = reads.only("step", _step(catalog, question))
    if question.subject is not None and reads.of("subject"):
        context["subject"] = reads.only("subject", _subject(catalog, question.subject))
    if reads.of("peer"):
        context["peer"] = {"method": question.peer_method}
    if reads.of("now"):
        context["now"] = {"__extn": {"fn": "datetime", "arg": _datetime(question.now)}}
    if call is not None:
        for name, shown in call.view.items():
            if reads.of(name):
                context[name] = reads.only(name, shown)
    elif handed_on is not None:
        if reads.of("hand_off"):
            context["hand_off"] = reads.only("hand_off", handed_on)
    elif question.assigning:
        if reads.of("assign"):
            context["assign"] = {"by": _reference("Dispatcher", question.dispatcher)}
    elif reads.of("open"):
        context["open"] = reads.only("open", _opening(question))
    return context


def workload_prefixes(workload: str) -> tuple[str, ...]:
    """The SPIFFE ID and all that it lies below, segment by segment, from the trust domain on."""
    trust_domain, *segments = workload.removeprefix(_SCHEME).split("/")
    prefixes = [_SCHEME + trust_domain]
    for segment in segments:
        prefixes.append(f"{prefixes[-1]}/{segment}")
    return tuple(prefixes)


def _named(question: Question) -> set[tuple[str, str]]:
    """By type and SPIFFE ID, each once: Cedar takes no entity twice, and anybody may hand on to itself."""
    if question.call is not None:
        return set()
    if question.handing_on is not None:
        return {("Workload", question.handing_on.giver), ("Workload", question.handing_on.receiver)}
    return {("Dispatcher", question.dispatcher)} if question.dispatcher else set()


def _below_its_path(kind: str, spiffe_id: str) -> dict[str, Any]:
    above = [_uid(kind, prefix) for prefix in workload_prefixes(spiffe_id)[:-1]]
    return {"uid": _uid(kind, spiffe_id), "attrs": {}, "parents": above}


def _principal(catalog: LoadedCatalog, task: TaskFacts) -> dict[str, Any]:
    shape = catalog.parameter_kinds.get(task.task_type)
    if shape is None:
        raise UnrepresentableError(f"the catalog has no task type {task.task_type}")
    try:
        attributes = admit(shape, dict(task.parameters))
    except ArgumentsInvalidError as error:
        # A task that was opened under an older catalog.
        raise UnrepresentableError(f"the parameters of the task no longer fit its type: {error.reason}") from error
    parents = [_uid("TaskGroup", group) for group in catalog.task_types[task.task_type].groups]
    parents.extend(_uid("Workload", prefix) for prefix in workload_prefixes(task.workload))
    return {"uid": _uid(f"Task::{task.task_type}", task.task_id), "attrs": attributes, "parents": parents}


def _task_state(catalog: LoadedCatalog, task: TaskFacts) -> dict[str, Any]:
    milliseconds = max(0, task.age // _MILLISECOND)
    # What an older catalog named and this one does not, no policy of this set can name either.
    return {
        "labels": _references("Label", task.labels & catalog.labels),
        "completed": _references("Tool", task.completed & catalog.tools.keys()),
        "reported": _references("Tool", task.reported & catalog.tools.keys()),
        "denials": task.denials,
        "age": {"__extn": {"fn": "duration", "arg": f"{milliseconds}ms"}},
    }


def _subject(catalog: LoadedCatalog, subject: Subject) -> dict[str, Any]:
    claims = catalog.prepare_subject(subject)
    if isinstance(claims, Denial):
        # A task that was opened under an older catalog: at `task.open` this has been looked at already.
        raise UnrepresentableError(claims.reason)
    shown: dict[str, Any] = admit(catalog.subject_claims, dict(claims))
    return {**shown, "iss": subject.id.issuer, "sub": subject.id.subject}


def _step(catalog: LoadedCatalog, question: Question) -> dict[str, Any]:
    step = question.step
    shown: dict[str, Any] = {"depth": step.depth, "chain": sorted(step.chain)}
    if step.parent_tool is not None and step.parent_tool in catalog.tools:
        shown["parent_tool"] = _reference("Tool", step.parent_tool)
    return shown


def _opening(question: Question) -> dict[str, Any]:
    shown: dict[str, Any] = {"vouched_by": question.vouched_by}
    if question.dispatcher:
        shown["dispatcher"] = _reference("Dispatcher", question.dispatcher)
    return shown


def _handing_on(catalog: LoadedCatalog, handing_on: HandingOn) -> dict[str, Any]:
    if handing_on.tool not in catalog.tools:
        # A step that was granted under an older catalog.
        raise UnrepresentableError(f"the catalog has no tool {handing_on.tool}, so no step of it is handed on")
    return {
        "from": _reference("Workload", handing_on.giver),
        "to": _reference("Workload", handing_on.receiver),
        "tool": _reference("Tool", handing_on.tool),
    }


def _budget(catalog: LoadedCatalog, question: Question) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for name, budget in catalog.budgets.items():
        value = question.budget.get(name)
        if value is None:
            raise UnrepresentableError(f"the value of budget {name} is not known")
        shown[name] = _sum(name, value) if budget.is_sum else _count(name, value)
    return shown


def _sum(name: str, value: Decimal) -> dict[str, Any]:
    try:
        return cedar_decimal(value, name)
    except ArgumentsInvalidError as error:
        raise UnrepresentableError(f"budget {name}: {error.reason}") from error


def _count(name: str, value: Decimal) -> int:
    if value != value.to_integral_value() or abs(value) > _MAX_LONG:
        raise UnrepresentableError(f"budget {name} is no count")
    return int(value)


def _datetime(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03d}Z"


def _uid(kind: str, identifier: str) -> dict[str, str]:
    return {"type": kind, "id": identifier}


def _reference(kind: str, identifier: str) -> dict[str, Any]:
    return {"__entity": {"type": kind, "id": identifier}}


def _references(kind: str, identifiers: Iterable[str]) -> list[dict[str, Any]]:
    return [_reference(kind, identifier) for identifier in identifiers]
