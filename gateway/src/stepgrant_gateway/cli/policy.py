"""`stepgrant policy`: check a directory, or have the gateway load its own anew."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stepgrant_gateway.cli.exits import EPILOG, Exit, reported
from stepgrant_gateway.cli.output import AsJson, print_json, print_line

if TYPE_CHECKING:
    from stepgrant_gateway.core.errors import Finding

program = typer.Typer(help="Policy directories.", no_args_is_help=True)


@program.command("check", epilog=EPILOG)
@reported
def check(
    directory: Annotated[Path, typer.Argument(help="Policy directory.", exists=True, file_okay=False)],
    as_json: AsJson = False,
) -> None:
    """Says everything that is wrong with a policy directory, and runs its golden cases. No gateway is needed."""
    from stepgrant_gateway.policy.load import check_policy

    report = check_policy(directory)
    if as_json:
        print_json(
            {
                "ok": not report.findings,
                "policy_digest": report.digest,
                "findings": [dataclasses.asdict(finding) for finding in report.findings],
                "warnings": [dataclasses.asdict(finding) for finding in report.warnings],
                "task_types": report.task_types,
                "tools": report.tools,
                "policies": report.policies,
                "cases": report.cases,
            }
        )
    else:
        print_findings(report.findings, directory)
        for warning in report.warnings:
            print_line(f"{directory / warning.file}:{warning.line}: warning: {warning.message}")
        if report.findings:
            print_line(f"Refused: {len(report.findings)} findings.")
        else:
            print_line(
                f"{report.policies} policies, {report.task_types} task types, {report.tools} tools; "
                f"{report.cases} golden cases pass."
            )
            print_line(report.digest)
    if report.findings:
        raise typer.Exit(Exit.REFUSED)


@program.command("reload", epilog=EPILOG)
@reported
def reload(as_json: AsJson = False) -> None:
    """Has the gateway load its policy directory anew: all of it is activated, or nothing."""
    from stepgrant.v1.operator_pb2 import ReloadPolicyRequest
    from stepgrant_gateway.cli.remote import TIMEOUT, operator
    from stepgrant_gateway.core.errors import Finding

    with operator() as stub:
        done = stub.ReloadPolicy(ReloadPolicyRequest(), timeout=TIMEOUT)
    findings = tuple(
        Finding(item.file, item.line, item.policy_id, item.message, item.nearest) for item in done.findings
    )
    if as_json:
        print_json(
            {
                "activated": done.activated,
                "policy_digest": done.policy_digest,
                "findings": [dataclasses.asdict(finding) for finding in findings],
                "ended_steps": done.ended_steps,
                "cases": done.cases,
            }
        )
    elif done.activated:
        print_line(f"Activated; {done.cases} golden cases pass, {done.ended_steps} live steps ended.")
        print_line(done.policy_digest)
    else:
        print_findings(findings, Path())
        print_line(f"Refused: {len(findings)} findings. Still active: {done.policy_digest}")
    if not done.activated:
        raise typer.Exit(Exit.REFUSED)


def print_findings(findings: tuple[Finding, ...], directory: Path) -> None:
    """One finding a line, with a place that editors understand."""
    for finding in findings:
        print_line(str(dataclasses.replace(finding, file=str(directory / finding.file))))
