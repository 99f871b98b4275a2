"""`stepgrant lock`, `unlock`, `locks`: an operator's immediate deny."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepgrant_gateway.cli.exits import Exit, reported
from stepgrant_gateway.cli.output import AsJson, clock_time, iso_time, print_json, print_line, print_table

if TYPE_CHECKING:
    from stepgrant.v1.types_pb2 import Lock, Selector

Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; the people who meet it read this.")]


@reported
def lock(
    reason: Reason,
    workload: Annotated[str, typer.Option(help="SPIFFE ID, or a prefix by whole path segments.")] = "",
    task_type: Annotated[str, typer.Option("--task-type", help="Task type.")] = "",
    tool: Annotated[str, typer.Option(help="Tool server.name, or server.*")] = "",
    target: Annotated[str, typer.Option(help="Target; * matches any run of characters.")] = "",
    subject: Annotated[str, typer.Option(help="User on whose behalf tasks run: issuer#sub")] = "",
    as_json: AsJson = False,
) -> None:
    """Denies at once what matches every option given, and ends the live steps that match."""
    from stepgrant.v1.operator_pb2 import SetLockRequest
    from stepgrant.v1.types_pb2 import Selector
    from stepgrant_gateway.cli.remote import TIMEOUT, operator

    selector = Selector(workload=workload, task_type=task_type, tool=tool, target=target, subject=subject)
    with operator() as stub:
        done = stub.SetLock(SetLockRequest(selector=selector, reason=reason), timeout=TIMEOUT)
    if as_json:
        print_json({"lock": _lock(done.lock), "durable": done.durable, "ended_steps": done.ended_steps})
    else:
        recorded = "recorded" if done.durable else "in force, not yet recorded"
        print_line(f"Locked {_words(done.lock.selector)} ({recorded}); {done.ended_steps} live steps ended.")
        print_line(f"Lift it with: stepgrant unlock {done.lock.lock_id} --reason ...")
    if not done.durable:
        raise typer.Exit(Exit.UNRECORDED)


@reported
def unlock(
    lock_id: Annotated[str, typer.Argument(help="Id of the lock; `stepgrant locks` lists them.")],
    reason: Reason,
    as_json: AsJson = False,
) -> None:
    """Lifts a lock. Grants that it ended stay dead."""
    from stepgrant.v1.operator_pb2 import LiftLockRequest
    from stepgrant_gateway.cli.remote import TIMEOUT, operator

    with operator() as stub:
        lifted = stub.LiftLock(LiftLockRequest(lock_id=lock_id, reason=reason), timeout=TIMEOUT).lock
    if as_json:
        print_json({"lock": _lock(lifted)})
    else:
        print_line(f"Lifted the lock on {_words(lifted.selector)}; grants that it ended stay dead.")


@reported
def list_locks(as_json: AsJson = False) -> None:
    """Lists the locks in force."""
    from stepgrant.v1.operator_pb2 import ListLocksRequest
    from stepgrant_gateway.cli.remote import TIMEOUT, operator

    with operator() as stub:
        locks = stub.ListLocks(ListLocksRequest(), timeout=TIMEOUT).locks
    if as_json:
        print_json({"locks": [_lock(item) for item in locks]})
        return
    rows = [
        (item.lock_id, clock_time(item.issued_unix_ms), _words(item.selector), item.reason, item.issued_by)
        for item in locks
    ]
    print_table(("LOCK", "SINCE", "WHAT", "WHY", "BY"), rows, empty="No locks are in force.")


def _lock(message: Lock) -> dict[str, Any]:
    return {
        "lock_id": message.lock_id,
        "selector": _fields(message.selector),
        "reason": message.reason,
        "issued_at": iso_time(message.issued_unix_ms),
        "issued_by": message.issued_by,
    }


def _fields(selector: Selector) -> dict[str, str]:
    return {field.name: value for field, value in selector.ListFields()}


def _words(selector: Selector) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in _fields(selector).items())
