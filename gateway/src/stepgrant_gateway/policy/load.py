"""Loading a policy directory: everything is checked, everything that is wrong is said, and then it is one value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stepgrant_gateway.core.decision import OPEN_ACTION, PermitTerms
from stepgrant_gateway.core.errors import Finding, PolicyRefusedError
from stepgrant_gateway.policy.annotations import Annotations, read_annotations
from stepgrant_gateway.policy.cases import count_cases, run_cases
from stepgrant_gateway.policy.catalog import LoadedCatalog, load_catalog
from stepgrant_gateway.policy.checks import check_needless_unbound, check_permits
from stepgrant_gateway.policy.directory import directory_digest, read_directory
from stepgrant_gateway.policy.evaluation import Evaluator, Rule
from stepgrant_gateway.policy.findings import MAX_FINDINGS
from stepgrant_gateway.policy.index import build_index
from stepgrant_gateway.policy.names import check_completed, check_names
from stepgrant_gateway.policy.schema import derive_schema
from stepgrant_gateway.policy.scope import Vocabulary, actions_of, task_types_of, vocabulary_of
from stepgrant_gateway.policy.sets import LoadedPolicySet
from stepgrant_gateway.policy.statements import Statement, read_statements
from stepgrant_gateway.policy.validation import check_constants, validate


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `stepgrant policy check` has to say. With findings the directory is refused; `digest` is of its bytes."""

    findings: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    task_types: int
    tools: int
    policies: int
    cases: int
    digest: str


@dataclass(frozen=True, slots=True)
class _Loaded:
    policy: LoadedPolicySet | None
    report: CheckReport


def load_policy(path: Path) -> LoadedPolicySet:
    """The policy set of a directory, all of whose checks and golden cases pass.

    Raises:
        PolicyRefusedError: with everything that is wrong (at most MAX_FINDINGS), sorted by file and line.
    """
    return load_files(read_directory(path))


def load_files(files: Mapping[str, bytes]) -> LoadedPolicySet:
    """As `load_policy`, of a directory that has been read already."""
    loaded = _load(files)
    if loaded.policy is None:
        raise PolicyRefusedError(loaded.report.findings)
    return loaded.policy


def check_policy(path: Path) -> CheckReport:
    """What is wrong with a directory and what is in it; never raises for what the directory holds."""
    try:
        files = read_directory(path)
    except PolicyRefusedError as error:
        return CheckReport(error.findings, (), 0, 0, 0, 0, "")
    return _load(files).report


def _load(files: Mapping[str, bytes]) -> _Loaded:
    findings: list[Finding] = []
    warnings: list[Finding] = []
    policy = catalog = None
    count = count_cases(files)
    try:
        catalog = load_catalog(files)
    except PolicyRefusedError as error:
        findings += error.findings
    statements, unread = read_statements(files)
    annotations, wrong = read_annotations(statements)
    findings += [*unread, *wrong]
    if catalog is not None:
        vocabulary, schema = vocabulary_of(catalog), derive_schema(catalog)
        findings += check_permits(statements, annotations, catalog, vocabulary)
        findings += check_names(statements, catalog, vocabulary)
        findings += check_completed(statements, catalog, vocabulary)
        findings += _validated(statements, schema, findings)
        warnings += [*catalog.warnings, *check_needless_unbound(statements, annotations, catalog, vocabulary)]
        if not findings:
            policy = _assemble(files, catalog, schema, vocabulary, statements, annotations, count)
            warnings += _unopened(policy)
            findings += run_cases(files, policy)
    report = CheckReport(
        findings=tuple(sorted(set(findings)))[:MAX_FINDINGS],
        warnings=tuple(sorted(set(warnings)))[:MAX_FINDINGS],
        task_types=len(catalog.task_types) if catalog is not None else 0,
        tools=len(catalog.tools) if catalog is not None else 0,
        policies=len(statements),
        cases=count,
        digest=directory_digest(files),
    )
    return _Loaded(policy if not findings else None, report)


def _validated(statements: tuple[Statement, ...], schema: str, before: list[Finding]) -> list[Finding]:
    """Cedar's validator over all, then the search for constants over what has nothing else wrong with it."""
    reported = frozenset((finding.file, finding.line) for finding in before)
    try:
        found = list(validate(statements, schema, reported))
        wrong = reported | {(finding.file, finding.line) for finding in found}
        sound = tuple(s for s in statements if (s.place.file, s.place.line) not in wrong)
        return [*found, *check_constants(sound, schema)]
    except (ValueError, RecursionError) as error:
        return [Finding("catalog.yaml", 0, "", f"Cedar cannot validate this set ({type(error).__name__}): {error}")]


def _assemble(
    files: Mapping[str, bytes],
    catalog: LoadedCatalog,
    schema: str,
    vocabulary: Vocabulary,
    statements: tuple[Statement, ...],
    annotations: Mapping[int, Annotations],
    cases: int,
) -> LoadedPolicySet:
    rules = []
    reach: dict[str, set[str]] = {name: set() for name in catalog.task_types}
    for statement in statements:
        note = annotations[statement.number]
        terms = PermitTerms(statement.place, note.ttl, note.uses)
        source = json.dumps(statement.document, separators=(",", ":"))
        rules.append(Rule(statement.place, statement.permits, terms, note.reason, source))
        if statement.permits:
            for name in task_types_of(statement.document, vocabulary):
                reach[name] |= actions_of(statement.document, vocabulary)
    evaluator = Evaluator(tuple(rules), build_index(statements), schema, derive_schema(catalog, partial=True))
    reachable = {name: frozenset(actions) for name, actions in reach.items()}
    return LoadedPolicySet(directory_digest(files), catalog, evaluator, reachable, cases)


def _unopened(policy: LoadedPolicySet) -> list[Finding]:
    return [
        Finding("catalog.yaml", 0, "", f"No permit on {OPEN_ACTION} lets any workload open a {name} task.")
        for name in policy.catalog.task_types
        if not policy.may_open(name)
    ]
