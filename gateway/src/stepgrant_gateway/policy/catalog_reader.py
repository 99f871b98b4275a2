"""catalog.yaml, section by section: known keys only, every value checked, every finding with its line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from stepgrant.errors import InvalidIdError, InvalidInputError
from stepgrant.grant import Binding, Tier
from stepgrant.ids import parse_name, parse_tool
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.target import template_arguments
from stepgrant_gateway.core.decision import LONGEST_MEMORY, Audience, Budget, TaskType
from stepgrant_gateway.policy.declarations import (
    ArgumentDeclaration,
    BudgetDeclaration,
    Declarations,
    TargetRule,
    TaskDeclaration,
    ToolDeclaration,
)
from stepgrant_gateway.policy.findings import Findings
from stepgrant_gateway.policy.parameters import declared_names, read_parameters
from stepgrant_gateway.policy.shapes import Format, Kind, Shape
from stepgrant_gateway.policy.yaml_reader import Value

MAX_TASK_TYPES: Final = 256
MAX_SERVERS: Final = 256
MAX_TOOLS_PER_SERVER: Final = 1024
MAX_ARGUMENTS: Final = 256
MAX_TARGET_RULES: Final = 4096
MAX_BUDGETS: Final = 64
MAX_LIST: Final = 256
MAX_AUDIENCE_CHARACTERS: Final = 512
EFFECTS: Final = ("read", "write", "delete", "egress", "execute")

_SERVER: Final = re.compile(r"[a-z][a-z0-9_]{0,126}")
_PRINTABLE: Final = re.compile(r"[!-~]+")
_RESERVED_SERVERS: Final = frozenset(["task"])
"""`task.open` and the like are actions of their own."""
_RESERVED_TYPES: Final = frozenset(
    (
        *("true", "false", "if", "then", "else", "in", "is", "like", "has", "Task"),
        *("Bool", "Boolean", "Long", "String", "Set", "Record", "Entity", "Extension"),
        *("decimal", "datetime", "duration", "ipaddr"),
        *("Workload", "Dispatcher", "TaskGroup", "Label", "Tool", "TargetGroup", "Target", "Gateway"),
        *("TaskState", "Step", "Subject", "Peer", "Budget"),
    )
)
"""Words of Cedar, and the types that stand beside the task types in the derived schema."""


def read_catalog(root: Value) -> Declarations:
    """All that the document declares.

    Raises:
        PolicyRefusedError: with every finding of every section.
    """
    findings = Findings()
    sections = root.section(
        "the catalog",
        required=("version", "workloads", "tasks", "servers", "targets"),
        optional=("dispatchers", "subject", "budgets"),
    )
    with findings.part():
        if sections["version"].number("`version`") != 1:
            sections["version"].refuse("`version` is not 1, the only one that this version reads")
    roots: tuple[str, ...] = ()
    with findings.part():
        roots = _spiffe_ids(sections["workloads"], "`workloads`")
    dispatchers: tuple[str, ...] = ()
    if "dispatchers" in sections:
        with findings.part():
            dispatchers = _spiffe_ids(sections["dispatchers"], "`dispatchers`")
    tasks: dict[str, TaskDeclaration] = {}
    with findings.part():
        for name, value in declared_names(sections["tasks"], "`tasks`", most=MAX_TASK_TYPES).items():
            with findings.part():
                if name in _RESERVED_TYPES:
                    sections["tasks"].refuse(f"`{name}` is a word of Cedar or of the derived schema", key=name)
                tasks[name] = _task(name, value)
    claims, sensitive_claims = Shape(Kind.OBJECT), frozenset[str]()
    if "subject" in sections:
        with findings.part():
            claims, sensitive_claims = read_parameters(sections["subject"], "`subject`")
            # What an issuer leaves out is absent: a policy has to ask with `has` (schema.py).
            fields = {name: replace(member, required=False) for name, member in claims.fields.items()}
            claims = replace(claims, fields=fields)
            for name in {"iss", "sub"}.intersection(claims.fields):
                sections["subject"].refuse(f"`{name}` is always there; declare other claims", key=name)
    servers: dict[str, frozenset[str]] = {}
    tools: dict[str, ToolDeclaration] = {}
    documents: dict[str, Value] = {}
    with findings.part():
        for name, value in sections["servers"].entries("`servers`", most=MAX_SERVERS).items():
            with findings.part():
                if _SERVER.fullmatch(name) is None or name in _RESERVED_SERVERS:
                    sections["servers"].refuse(
                        f"`{name[:64]}` is no name for a server: a-z, 0-9, _; not task", key=name
                    )
                own = _server(name, value, findings, documents)
                servers[name] = frozenset(own)
                tools.update(own)
    rules: list[TargetRule] = []
    with findings.part():
        for value in sections["targets"].items("`targets`", most=MAX_TARGET_RULES):
            with findings.part():
                rules.append(_target(value))
    budgets: dict[str, BudgetDeclaration] = {}
    if "budgets" in sections:
        with findings.part():
            for name, value in declared_names(sections["budgets"], "`budgets`", most=MAX_BUDGETS).items():
                with findings.part():
                    budgets[name] = _budget(name, value)
    with findings.part():
        _refuse_two_audiences(tools)
    findings.refuse_if_any()
    return Declarations(
        workload_roots=roots,
        dispatcher_roots=dispatchers,
        tasks=tasks,
        subject_claims=claims,
        sensitive_claims=sensitive_claims,
        servers=servers,
        documents=documents,
        tools=tools,
        targets=tuple(rules),
        budgets=budgets,
    )


def _task(name: str, value: Value) -> TaskDeclaration:
    section = value.section(
        f"task type `{name}`", required=("max_age",), optional=("groups", "label_memory", "parameters")
    )
    window, scope = None, None
    if "label_memory" in section:
        memory = section["label_memory"].section("`label_memory`", required=("window", "scope"))
        window = memory["window"].duration("`window`")
        if window > LONGEST_MEMORY:
            memory["window"].refuse(
                f"`window` is longer than the {LONGEST_MEMORY.days} days that labels are remembered for"
            )
        scope = memory["scope"].choice("`scope`", ("instance", "workload"))
    parameters, sensitive = read_parameters(
        section.get("parameters", Value(value.file, value.line, {}, {})), f"the parameters of `{name}`"
    )
    groups = _names(section["groups"], "`groups`") if "groups" in section else frozenset()
    max_age = section["max_age"].duration("`max_age`")
    return TaskDeclaration(TaskType(name, groups, max_age, window, scope), parameters, sensitive)


def _server(name: str, value: Value, findings: Findings, documents: dict[str, Value]) -> dict[str, ToolDeclaration]:
    section = value.section(f"server `{name}`", required=("document", "audience", "tools"))
    document = section["document"].text("`document`")
    documents.setdefault(document, section["document"])
    audience = _audience(section["audience"])
    tools: dict[str, ToolDeclaration] = {}
    for own_name, declared in declared_names(section["tools"], "`tools`", most=MAX_TOOLS_PER_SERVER).items():
        with findings.part():
            full = f"{name}.{own_name}"
            try:
                parse_tool(full, f"`{full}`")
            except InvalidIdError as error:
                section["tools"].refuse(str(error), key=own_name)
            tools[full] = _tool(full, own_name, document, audience, declared)
    return tools


def _audience(value: Value) -> Audience:
    section = value.section("`audience`", required=("id", "binding", "verifiers"))
    identifier = section["id"].text("`id`")
    if len(identifier) > MAX_AUDIENCE_CHARACTERS or _PRINTABLE.fullmatch(identifier) is None:
        section["id"].refuse(f"`id` is not printable ASCII of at most {MAX_AUDIENCE_CHARACTERS} characters")
    binding = section["binding"].choice("`binding`", tuple(binding.value for binding in Binding))
    verifiers = _spiffe_ids(section["verifiers"], "`verifiers`", workload=True)
    return Audience(identifier, Binding(binding), frozenset(verifiers))


def _tool(name: str, own_name: str, document: str, audience: Audience, value: Value) -> ToolDeclaration:
    section = value.section(
        f"tool `{name}`", required=("effects", "tier", "target"), optional=("labels", "arguments", "calls")
    )
    effects = section["effects"].items("`effects`", most=len(EFFECTS))
    if not effects:
        section["effects"].refuse(f"`effects` is empty; say what the tool does: {', '.join(EFFECTS)}")
    target = section["target"].text("`target`")
    try:
        template_arguments(target)
    except InvalidInputError as error:
        section["target"].refuse(str(error))
    arguments: dict[str, ArgumentDeclaration] = {}
    if "arguments" in section:
        for argument, declared in declared_names(section["arguments"], "`arguments`", most=MAX_ARGUMENTS).items():
            arguments[argument] = _argument(argument, declared)
    return ToolDeclaration(
        place=value,
        name=name,
        own_name=own_name,
        document=document,
        audience=audience,
        effects=frozenset(effect.choice("an effect", EFFECTS) for effect in effects),
        tier=_tier(section["tier"]),
        target=target,
        labels=_names(section["labels"], "`labels`") if "labels" in section else frozenset(),
        arguments=arguments,
        calls=section.get("calls"),
    )


def _argument(name: str, value: Value) -> ArgumentDeclaration:
    flags = ("sink", "unique", "sensitive", "hidden", "free_form")
    section = value.section(f"argument `{name}`", optional=("format", "min_items", *flags))
    form = None
    if "format" in section:
        form = Format(section["format"].choice("`format`", tuple(form.value for form in Format)))
    minimum = section["min_items"].count("`min_items`", least=0, most=4096) if "min_items" in section else 0
    said: Mapping[str, bool] = {flag: section[flag].boolean(f"`{flag}`") for flag in flags if flag in section}
    return ArgumentDeclaration(value, format=form, min_items=minimum, **said)


def _tier(value: Value) -> Tier:
    tier = value.text("`tier`")
    if tier == "privileged":
        value.refuse("tier privileged is not enforced by this version, so that it is refused; use sensitive")
    return Tier(value.choice("`tier`", tuple(tier.value for tier in Tier)))


def _target(value: Value) -> TargetRule:
    section = value.section("a target rule", required=("match",), optional=("groups", "tier"))
    match = section["match"].text("`match`")
    if _PRINTABLE.fullmatch(match) is None:
        section["match"].refuse("`match` is not printable ASCII without spaces")
    groups = _names(section["groups"], "`groups`") if "groups" in section else frozenset()
    return TargetRule(match, groups, _tier(section["tier"]) if "tier" in section else None)


def _budget(name: str, value: Value) -> BudgetDeclaration:
    section = value.section(f"budget `{name}`", required=("per",), optional=("sum", "count", "window"))
    if ("sum" in section) == ("count" in section):
        value.refuse(f"budget `{name}` has either `sum` or `count`")
    is_sum = "sum" in section
    members = section["sum" if is_sum else "count"].items("the list of a budget", most=MAX_LIST)
    if not members:
        value.refuse(f"budget `{name}` counts nothing")
    per = section["per"].choice("`per`", ("task", "workload", "subject"))
    window = section["window"].duration("`window`") if "window" in section else None
    return BudgetDeclaration(Budget(name, per, window, is_sum), members)


def _names(value: Value, what: str) -> frozenset[str]:
    names: dict[str, str] = {}
    for item in value.items(what, most=MAX_LIST):
        text = item.text(what)
        try:
            parse_name(text, f"`{text[:64]}` in {what}")
        except InvalidIdError as error:
            item.refuse(str(error))
        if text.casefold() in names:
            item.refuse(f"`{text}` in {what} stands there twice, or differs in case only")
        names[text.casefold()] = text
    return frozenset(names.values())


def _spiffe_ids(value: Value, what: str, *, workload: bool = False) -> tuple[str, ...]:
    ids: list[str] = []
    for item in value.items(what, most=MAX_LIST):
        try:
            parsed = parse_spiffe_id(item.text(what), what=f"an ID of {what}")
        except InvalidIdError as error:
            item.refuse(str(error))
        if workload and not parsed.path:
            item.refuse(f"an ID of {what} names a trust domain and no workload")
        ids.append(str(parsed))
    if not ids:
        value.refuse(f"{what} is empty")
    return tuple(dict.fromkeys(ids))


def _refuse_two_audiences(tools: Mapping[str, ToolDeclaration]) -> None:
    known: dict[str, ToolDeclaration] = {}
    for tool in tools.values():
        first = known.setdefault(tool.audience.id, tool)
        if first.audience != tool.audience:
            tool.place.refuse(f"`{first.name}` has the same audience with another binding or other verifiers")
