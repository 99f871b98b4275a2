"""The loaded catalog: what the operator declared, checked, and ready to prepare tasks and calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stepgrant.errors import Denial
from stepgrant.intent import Json
from stepgrant_gateway.core.decision import Audience, Budget, Call, Parameters, TaskType, Tool
from stepgrant_gateway.core.errors import Finding


@dataclass(frozen=True, slots=True)
class LoadedCatalog:
    """A catalog without findings; implements `core.ports.Catalog`.

    `workload_roots`: SPIFFE IDs; workloads that policies name lie at or under them. `servers`: tool names by server.
    `sinks`: sink arguments by tool (tools without any are absent). `finite` names below are in full, `server.tool`.
    """

    task_types: Mapping[str, TaskType]
    tools: Mapping[str, Tool]
    audiences: Mapping[str, Audience]
    budgets: Mapping[str, Budget]
    workload_roots: tuple[str, ...]
    task_groups: frozenset[str]
    target_groups: frozenset[str]
    labels: frozenset[str]
    servers: Mapping[str, frozenset[str]]
    sinks: Mapping[str, frozenset[str]]
    subject_claims: frozenset[str]
    warnings: tuple[Finding, ...]

    def parameters_of(self, task_type: str) -> tuple[str, ...]:
        """Names of the parameters of a task type, sorted."""
        raise NotImplementedError

    def prepare_task(self, task_type: str, parameters: Mapping[str, Json]) -> Parameters | Denial:
        """Validated parameters, or `arguments_invalid` with what is wrong (`no_permit`: no such task type)."""
        raise NotImplementedError

    def prepare_call(self, tool: str, arguments: Mapping[str, Json]) -> Call | Denial:
        """The validated call, or `arguments_invalid` (`no_permit`: no such tool, or no target rule matches)."""
        raise NotImplementedError


def load_catalog(files: Mapping[str, bytes]) -> LoadedCatalog:
    """The catalog of a policy directory, from its files by relative name (`catalog.yaml`, `tools/orders.json`, ...).

    Raises:
        PolicyRefusedError: with everything that is wrong, each with file and line.
    """
    raise NotImplementedError
