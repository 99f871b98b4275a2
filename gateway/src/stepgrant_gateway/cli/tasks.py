"""`stepgrant tasks`: what is open now."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from stepgrant_gateway.cli.exits import reported
from stepgrant_gateway.cli.output import AsJson, clock_time, iso_time, print_json, print_table

if TYPE_CHECKING:
    from stepgrant.v1.operator_pb2 import TaskSummary


@reported
def tasks(
    task: Annotated[str, typer.Argument(help="Id of an open task, or of a branch of one, to see its steps.")] = "",
    as_json: AsJson = False,
) -> None:
    """Lists open tasks and their branches, or the steps of one."""
    if task:
        _print_steps(task, as_json=as_json)
    else:
        _print_tasks(as_json=as_json)


def _print_tasks(*, as_json: bool) -> None:
    from stepgrant.v1.operator_pb2 import ListTasksRequest
    from stepgrant_gateway.cli.remote import TIMEOUT, operator

    with operator() as stub:
        found = stub.ListTasks(ListTasksRequest(), timeout=TIMEOUT).tasks
    if as_json:
        document = [
            {
                "task_id": item.task_id,
                "branch_id": item.branch_id or None,
                "task_type": item.task_type,
                "workload": item.workload,
                "chain": list(item.chain),
                "subject": item.subject or None,
                "vouched_by": item.vouched_by,
                "dispatcher": item.dispatcher or None,
                "opened_at": iso_time(item.opened_unix_ms),
                "expires_at": iso_time(item.expires_unix_ms),
                "live_steps": item.live_steps,
                "steps": item.steps,
                "labels": list(item.labels),
            }
            for item in found
        ]
        print_json({"tasks": document})
        return
    rows = [
        (
            item.branch_id or item.task_id,
            item.task_type,
            f"{item.live_steps}/{item.steps}",
            f"{clock_time(item.expires_unix_ms)}Z",
            "\n".join(_who(item)),
        )
        for item in found
    ]
    print_table(("TASK", "TYPE", "LIVE", "UNTIL", "WORKLOAD"), rows, empty="No tasks are open.")


def _who(item: TaskSummary) -> Iterator[str]:
    """Who works on it, and what else tells one task from another: a line each, and none for what is not there."""
    yield item.workload
    if item.branch_id:
        yield f"handed on by {item.chain[-2]}"
    if item.dispatcher:
        yield f"assigned by {item.dispatcher}"
    if item.subject:
        yield f"for {item.subject}"
    if item.labels:
        yield f"labelled {' '.join(item.labels)}"


def _print_steps(task: str, *, as_json: bool) -> None:
    from stepgrant.v1.operator_pb2 import ListStepsRequest
    from stepgrant_gateway.cli.remote import TIMEOUT, operator

    with operator() as stub:
        found = stub.ListSteps(ListStepsRequest(task_id=task), timeout=TIMEOUT).steps
    if as_json:
        document = [
            {
                "step_id": item.step_id,
                "parent_step_id": item.parent_step_id or None,
                "tool": item.tool,
                "target": item.target,
                "state": item.state,
                "reason": item.reason,
                "declared_at": iso_time(item.declared_unix_ms),
                "expires_at": iso_time(item.expires_unix_ms),
            }
            for item in found
        ]
        print_json({"task_id": task, "steps": document})
        return
    rows = [
        (item.step_id, clock_time(item.declared_unix_ms), item.tool, item.target or "-", item.state, item.reason or "-")
        for item in found
    ]
    print_table(("STEP", "DECLARED", "TOOL", "TARGET", "STATE", "WHY"), rows, empty="The task has no steps.")
