"""A snapshot: a fold's state as bytes, and the heads of the chains that were folded (ADR 0016)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from hashlib import sha256
from typing import Any, Final

from stepgrant.errors import StepgrantError
from stepgrant.intent import MAX_SAFE_INTEGER
from stepgrant.selector import Selector
from stepgrant_gateway.core.assignments import Assignment, AssignmentState
from stepgrant_gateway.core.errors import SnapshotError
from stepgrant_gateway.core.history import History, LiveStep, OpenBranch, OpenTask, Spent
from stepgrant_gateway.core.ledger import ChainHead, is_instance
from stepgrant_gateway.core.logouts import logout_data, logout_of
from stepgrant_gateway.core.revocation import Lock

SNAPSHOT_SCHEMA: Final = 5
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def encode_snapshot(heads: Sequence[ChainHead], history: History) -> bytes:
    """Canonical bytes: a line of JSON for the schema and the heads, then one for each thing that is known."""
    named = [[head.instance_id, head.sequence, head.hash.hex()] for head in heads]
    latest = None if history.latest is None else _microseconds(history.latest)
    first = {"snapshot": SNAPSHOT_SCHEMA, "heads": named, "latest": latest}
    return b"".join(_ENCODER.encode(line).encode("ascii") + b"\n" for line in (first, *_lines(history)))


def covered_heads(data: bytes) -> tuple[ChainHead, ...]:
    """The heads up to which a snapshot has folded, from its first line alone: nothing else of it is read.

    Raises:
        SnapshotError: it is no snapshot, or one of another schema.
    """
    header = _header(data)
    return tuple(_head(item) for item in header["heads"])


def decode_snapshot(data: bytes) -> History:
    """The state that a snapshot holds. Only for bytes whose digest stands in a chain that verifies.

    Raises:
        SnapshotError: it cannot be read.
    """
    latest = _header(data)["latest"]
    history = History()
    try:
        history.latest = None if latest is None else _at(latest)
        for line in data.splitlines()[1:]:
            _take(history, json.loads(line))
    except (ValueError, TypeError, KeyError, OverflowError, InvalidOperation, StepgrantError) as error:
        raise SnapshotError("it cannot be read") from error
    return history


def snapshot_digest(data: bytes) -> str:
    """What `ledger.snapshot` says of it: SHA-256, in hexadecimal."""
    return sha256(data).hexdigest()


def _header(data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data.partition(b"\n")[0])
    except (ValueError, RecursionError) as error:
        raise SnapshotError("it is no snapshot") from error
    if not isinstance(header, dict) or header.keys() != {"snapshot", "heads", "latest"}:
        raise SnapshotError("it is no snapshot")
    if header["snapshot"] != SNAPSHOT_SCHEMA or not isinstance(header["heads"], list):
        raise SnapshotError(f"it is not of schema {SNAPSHOT_SCHEMA}, the one that this version knows")
    return header


def _head(item: object) -> ChainHead:
    match item:
        case [str(instance), int(sequence), str(text)] if is_instance(instance) and 0 < sequence <= MAX_SAFE_INTEGER:
            if len(text) == 64 and not text.strip("0123456789abcdef"):
                return ChainHead(instance, sequence, bytes.fromhex(text))
    raise SnapshotError("it names a head that is none")


def _lines(history: History) -> Iterator[list[Any]]:
    for lock in history.locks.values():
        of = lock.selector
        names = ("workload", "task_type", "tool", "target", "subject")
        selector = {name: getattr(of, name) for name in names}
        yield ["lock", lock.lock_id, selector, lock.reason, _microseconds(lock.issued_at), lock.issued_by]
    for (budget, owner), grains in sorted(history.spent.items()):
        for number, spent in sorted(grains.items()):
            yield ["spent", budget, owner, number, _microseconds(spent.at), str(spent.amount)]
    for workload, labels in sorted(history.labels.workloads.items()):
        yield ["labels", workload, _times(labels)]
    for workload, by_label in sorted(history.labels.instances.items()):
        for label, instances in sorted(by_label.items()):
            yield ["instances", workload, label, _times({jkt.hex(): at for jkt, at in instances.items()})]
    for one in history.assignments.values():
        ticket, words, until = one.ticket_sha256.hex(), one.words_sha256.hex(), _microseconds(one.until)
        to = [one.dispatcher, one.workload, one.task_type]
        yield ["assignment", one.assignment_id, ticket, words, to, until, one.state.value, one.task_id]
    for logout in history.logouts.known.values():
        yield ["logout", logout_data(logout)]
    for task_id, task in history.open_tasks.items():
        yield ["task", task_id, task.workload, task.instance_jkt.hex(), sorted(task.labels), task.subject]
    for branch_id, branch in history.open_branches.items():
        yield ["branch", branch_id, branch.task, branch.workload, branch.instance_jkt.hex()]
    for (task_id, step_id), step in history.live_steps.items():
        yield [
            "step",
            task_id,
            step_id,
            step.grant,
            step.exp_ms,
            _microseconds(step.at),
            step.deltas,
            sorted(step.by_subject),
            step.chain,
        ]


def _take(history: History, line: list[Any]) -> None:
    match line:
        case ["lock", lock_id, selector, reason, at, by]:
            history.locks[lock_id] = Lock(lock_id, Selector(**selector), reason, _at(at), by)
        case ["logout", data]:
            history.logouts.note(logout_of(data))
        case ["spent", budget, owner, number, at, amount]:
            history.spent.setdefault((budget, owner), {})[number] = Spent(_at(at), Decimal(amount))
        case ["labels", workload, labels]:
            history.labels.workloads[workload] = {label: _at(at) for label, at in labels.items()}
        case ["instances", workload, label, instances]:
            by_label = history.labels.instances.setdefault(workload, {})
            by_label[label] = {bytes.fromhex(jkt): _at(at) for jkt, at in instances.items()}
        case ["task", task_id, workload, jkt, labels, subject]:
            history.open_tasks[task_id] = OpenTask(workload, bytes.fromhex(jkt), set(labels), subject)
        case ["branch", branch_id, task_id, workload, jkt]:
            history.open_branches[branch_id] = OpenBranch(task_id, workload, bytes.fromhex(jkt))
        case ["step", task_id, step_id, grant, exp_ms, at, deltas, by_subject, chain]:
            history.live_steps[task_id, step_id] = LiveStep(
                grant, exp_ms, _at(at), deltas, frozenset(by_subject), tuple(chain)
            )
        case ["assignment", assignment_id, ticket, words, [dispatcher, workload, task_type], until, state, task_id]:
            history.assignments[assignment_id] = Assignment(
                assignment_id,
                bytes.fromhex(ticket),
                bytes.fromhex(words),
                dispatcher,
                workload,
                task_type,
                _at(until),
                AssignmentState(state),
                task_id,
            )
        case _:
            raise SnapshotError("it holds a line of an unknown kind")


def _times(last: dict[str, datetime]) -> dict[str, int]:
    return {name: _microseconds(at) for name, at in last.items()}


def _microseconds(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def _at(microseconds: int) -> datetime:
    return _EPOCH + microseconds * _MICROSECOND
