"""The loaded catalog: what the operator declared, checked, and ready to prepare tasks and calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from stepgrant import intent
from stepgrant.errors import ArgumentsInvalidError, Denial, DenialCode
from stepgrant.grant import Tier
from stepgrant.intent import Json
from stepgrant.target import fill_target
from stepgrant_gateway.core.decision import NO_PERMIT, Audience, Budget, Call, Parameters, Refused, TaskType, Tool
from stepgrant_gateway.core.errors import Finding
from stepgrant_gateway.core.principal import Subject
from stepgrant_gateway.policy.arguments import admit
from stepgrant_gateway.policy.budgets import Counted, deltas, resolve_budgets
from stepgrant_gateway.policy.calls import CallTemplate, envelope, read_calls
from stepgrant_gateway.policy.catalog_reader import read_catalog
from stepgrant_gateway.policy.declarations import Declarations, TargetRule
from stepgrant_gateway.policy.findings import Findings, nearest, refused
from stepgrant_gateway.policy.parameters import blank_values, normalised_parameters
from stepgrant_gateway.policy.parts import COLUMNS, parse_part
from stepgrant_gateway.policy.shapes import Shape, kind_only
from stepgrant_gateway.policy.targets import can_match, match_target
from stepgrant_gateway.policy.tool_documents import DocumentedTool, read_tool_document
from stepgrant_gateway.policy.tools import ToolSchema, join_tool
from stepgrant_gateway.policy.yaml_reader import read_yaml

CATALOG_FILE: Final = "catalog.yaml"


@dataclass(frozen=True, slots=True)
class LoadedCatalog:
    """A catalog without findings; implements `core.ports.Catalog`.

    `workload_roots`, `dispatcher_roots`: SPIFFE IDs; workloads and dispatchers that policies name lie at or under them.
    `servers`: full tool names by server. `sinks`: sink arguments by tool (tools without any are absent). `subject_claims`,
    `parameter_shapes` and `schemas` are for the derived Cedar schema; `counted`, `calls` and `target_rules` for preparing calls.
    """

    task_types: Mapping[str, TaskType]
    tools: Mapping[str, Tool]
    audiences: Mapping[str, Audience]
    budgets: Mapping[str, Budget]
    workload_roots: tuple[str, ...]
    dispatcher_roots: tuple[str, ...]
    task_groups: frozenset[str]
    target_groups: frozenset[str]
    labels: frozenset[str]
    servers: Mapping[str, frozenset[str]]
    sinks: Mapping[str, frozenset[str]]
    subject_claims: Shape
    sensitive_claims: frozenset[str]
    parameter_shapes: Mapping[str, Shape]
    parameter_kinds: Mapping[str, Shape]
    sensitive_parameters: Mapping[str, frozenset[str]]
    schemas: Mapping[str, ToolSchema]
    target_rules: tuple[TargetRule, ...]
    counted: Mapping[str, tuple[Counted, ...]]
    calls: Mapping[str, CallTemplate]
    warnings: tuple[Finding, ...]

    def parameters_of(self, task_type: str) -> tuple[str, ...]:
        """Names of the parameters of a task type, sorted."""
        return tuple(sorted(self.parameter_shapes[task_type].fields))

    def prepare_task(self, task_type: str, parameters: Mapping[str, Json]) -> Parameters | Denial:
        """Validated parameters, or `arguments_invalid` with what is wrong (`no_permit`: no such task type)."""
        shape = self.parameter_shapes.get(task_type)
        if shape is None:
            return _denial(NO_PERMIT)
        try:
            values = normalised_parameters(shape, parameters)
        except ArgumentsInvalidError as error:
            return _invalid(error)
        return Parameters(values, self.sensitive_parameters[task_type])

    def blank_parameters(self, task_type: str) -> Parameters:
        """See `core.ports.Catalog`."""
        return Parameters(blank_values(self.parameter_shapes[task_type]), self.sensitive_parameters[task_type])

    def prepare_subject(self, subject: Subject) -> Mapping[str, Json] | Denial:
        """See `core.ports.Catalog`. Other claims than the declared ones are left out."""
        shape = self.subject_claims
        try:
            return normalised_parameters(
                shape, {name: subject.claims[name] for name in shape.fields if name in subject.claims}
            )
        except ArgumentsInvalidError as error:
            return Denial(
                DenialCode.SUBJECT_INVALID,
                f"a claim of the subject token is not what this gateway's catalog says of it: {error.reason}.",
                "have the issuer put it right, or ask the operator.",
                argument=error.argument,
            )

    def prepare_call(self, tool: str, arguments: Mapping[str, Json]) -> Call | Denial:
        """The validated call, or `arguments_invalid` (`no_permit`: no such tool, or no target rule matches)."""
        schema = self.schemas.get(tool)
        if schema is None:
            return _denial(NO_PERMIT)
        try:
            view = _view(schema, arguments)
            target = fill_target(schema.tool.target_template, arguments)
            added = deltas(self.counted.get(tool, ()), schema.shape, arguments)
        except ArgumentsInvalidError as error:
            return _invalid(error)
        rule = match_target(self.target_rules, target)
        if rule is None:
            return _denial(NO_PERMIT)
        template = self.calls.get(tool)
        sensitive = Tier.SENSITIVE is schema.tool.tier or Tier.SENSITIVE is rule.tier
        return Call(
            tool=schema.tool,
            arguments=arguments,
            args_sha256=intent.digest(dict(arguments)),
            target=target,
            target_groups=rule.groups,
            tier=Tier.SENSITIVE if sensitive else Tier.ROUTINE,
            deltas=added,
            envelope=None if template is None else envelope(template, arguments),
            sensitive=schema.sensitive,
            view=view,
        )


def load_catalog(files: Mapping[str, bytes]) -> LoadedCatalog:
    """The catalog of a policy directory, from its files by relative name (`catalog.yaml`, `tools/orders.json`, ...).

    Raises:
        PolicyRefusedError: with everything that is wrong, each with file and line.
    """
    content = files.get(CATALOG_FILE)
    if content is None:
        raise refused(CATALOG_FILE, 0, "the directory has no catalog.yaml", nearest_name=nearest(CATALOG_FILE, files))
    declared = read_catalog(read_yaml(CATALOG_FILE, content))
    schemas, warnings = _join(declared, _documents(declared, files))
    shapes = {name: schema.shape for name, schema in schemas.items()}
    findings = Findings()
    counted: Mapping[str, tuple[Counted, ...]] = {}
    with findings.part():
        counted = resolve_budgets(declared.budgets, shapes)
    calls: dict[str, CallTemplate] = {}
    for name, tool in declared.tools.items():
        with findings.part():
            if tool.calls is not None:
                calls[name] = read_calls(tool.calls, shapes[name], shapes)
        with findings.part():
            if not can_match(declared.targets, tool.target):
                tool.place.refuse(f"no rule of `targets` matches what `{name}` acts on: {tool.target}", key="target")
    findings.refuse_if_any()
    task_types = {name: task.task_type for name, task in declared.tasks.items()}
    return LoadedCatalog(
        task_types=task_types,
        tools={name: schema.tool for name, schema in schemas.items()},
        audiences={schema.tool.audience.id: schema.tool.audience for schema in schemas.values()},
        budgets={name: budget.budget for name, budget in declared.budgets.items()},
        workload_roots=declared.workload_roots,
        dispatcher_roots=declared.dispatcher_roots,
        task_groups=frozenset[str]().union(*(task.groups for task in task_types.values())),
        target_groups=frozenset[str]().union(*(rule.groups for rule in declared.targets)),
        labels=frozenset[str]().union(*(schema.tool.labels for schema in schemas.values())),
        servers=declared.servers,
        sinks={name: schema.sinks for name, schema in schemas.items() if schema.sinks},
        subject_claims=declared.subject_claims,
        sensitive_claims=frozenset(f"claims.{name}" for name in declared.sensitive_claims),
        parameter_shapes={name: task.parameters for name, task in declared.tasks.items()},
        parameter_kinds={name: kind_only(task.parameters) for name, task in declared.tasks.items()},
        sensitive_parameters={name: task.sensitive for name, task in declared.tasks.items()},
        schemas=schemas,
        target_rules=declared.targets,
        counted=counted,
        calls=calls,
        warnings=warnings,
    )


def _documents(declared: Declarations, files: Mapping[str, bytes]) -> dict[str, Mapping[str, DocumentedTool]]:
    findings = Findings()
    documents: dict[str, Mapping[str, DocumentedTool]] = {}
    for name, place in declared.documents.items():
        with findings.part():
            if name not in files:
                place.refuse(f"the directory has no file {name[:128]}", nearest_name=nearest(name, files))
            documents[name] = read_tool_document(name, files[name])
    findings.refuse_if_any()
    return documents


def _join(
    declared: Declarations, documents: Mapping[str, Mapping[str, DocumentedTool]]
) -> tuple[dict[str, ToolSchema], tuple[Finding, ...]]:
    findings = Findings()
    schemas: dict[str, ToolSchema] = {}
    warnings: list[Finding] = []
    for name, tool in declared.tools.items():
        with findings.part():
            schemas[name], said = join_tool(tool, documents)
            warnings.extend(said)
    findings.refuse_if_any()
    return schemas, tuple(sorted(warnings))


def _view(schema: ToolSchema, arguments: Mapping[str, Json]) -> dict[str, Any]:
    seen: dict[str, Any] = admit(schema.shape, dict(arguments))
    view: dict[str, Any] = {"args": seen}
    if schema.formats:
        view["parts"] = {name: _parts(schema, name, seen[name]) for name in schema.formats if name in seen}
    if schema.counted:
        view["count"] = {name: len(seen[name]) for name in schema.counted if name in seen}
    return view


def _parts(schema: ToolSchema, name: str, value: Any) -> dict[str, Any]:
    form = schema.formats[name]
    if isinstance(value, str):
        return dict(parse_part(form, value, name).columns)
    rows = [parse_part(form, item, f"{name}[{index}]").columns for index, item in enumerate(value)]
    return {column: [row[column] for row in rows] for column in COLUMNS[form]}


def _denial(refusal: Refused) -> Denial:
    return Denial(refusal.code, refusal.reason, refusal.next)


def _invalid(error: ArgumentsInvalidError) -> Denial:
    return Denial(DenialCode.ARGUMENTS_INVALID, error.reason, error.fix, argument=error.argument)
