"""Events as a gateway records them over some time, for what folds a ledger: seeded, so that each run sees the same."""

from __future__ import annotations

import random
from datetime import timedelta

from stepgrant.ids import ulid
from stepgrant_gateway.core.events import Event, EventType
from tests.kit.clock import START


def work(count: int, seed: int = 20261122) -> list[Event]:
    """`count` events: tasks with labels and steps that spend, some of them left open, some of them assigned, some with
    branches; locks that stay or are lifted; assignments that wait, are taken, given back, withdrawn, or run out.
    """
    numbers = random.Random(seed)
    tasks: dict[str, list[str]] = {}
    workloads: dict[str, str] = {}
    branches: dict[str, tuple[str, str]] = {}
    locks: list[str] = []
    assigned: list[str] = []
    events: list[Event] = []
    at = START

    def fresh() -> str:
        return ulid(at, numbers.randbytes(10))

    def note(kind: EventType, **data: object) -> None:
        events.append(Event(kind, at, data))

    while len(events) < count:
        at += timedelta(seconds=numbers.randrange(40))
        choice = numbers.random()
        task = numbers.choice(sorted(tasks)) if tasks else ""
        if choice < 0.1 or not task:
            tasks[opened := fresh()] = []
            workload = workloads[opened] = f"spiffe://a/{numbers.randrange(4)}"
            jkt = numbers.randrange(6).to_bytes(32, "big").hex()
            labels = ["old"] * (numbers.random() < 0.3)
            user = {"iss": "https://login.acme.test", "sub": f"u-{numbers.randrange(3)}"}
            subject = {"subject": user} if numbers.random() < 0.5 else {}
            taken = {"assignment": assigned.pop()} if assigned and numbers.random() < 0.5 else {}
            note(
                EventType.TASK_OPENED,
                task=opened,
                workload=workload,
                instance_jkt=jkt,
                labels=labels,
                **subject,
                **taken,
            )
        elif choice < 0.5:
            tasks[task].append(step := fresh())
            labels = numbers.sample(["confidential", "untrusted"], numbers.randrange(3))
            deltas = {
                name: f"{numbers.randrange(500) / 100}"
                for name in numbers.sample(["mails", "refunds"], numbers.randrange(3))
            }
            granted = {"grant": fresh(), "exp_ms": 1, "labels": labels, "deltas": deltas}
            by_subject = {"by_subject": sorted(deltas)[:1]} if "refunds" in deltas else {}
            if task not in branches and numbers.random() < 0.2:
                branch, receiver = branches[task] = fresh(), f"spiffe://a/clerk/{numbers.randrange(3)}"
                jkt = numbers.randrange(6).to_bytes(32, "big").hex()
                said = {"branch": branch, "workload": receiver, "instance_jkt": jkt, "labels": ["old"]}
                note(EventType.BRANCH_OPENED, task=task, **said)
            handed = numbers.random() < 0.5 and branches.get(task)
            chain = {"branch": handed[0], "chain": [workloads[task], handed[1]]} if handed else {}
            note(EventType.STEP_GRANTED, task=task, step=step, **granted, **by_subject, **chain)
        elif choice < 0.55 and tasks[task]:
            note(EventType.STEP_RENEWED, task=task, step=tasks[task][-1], grant=fresh(), exp_ms=2)
        elif choice < 0.81 and tasks[task]:
            code = numbers.choice(["completed", "completed", "undelivered"])
            note(EventType.STEP_ENDED, task=task, step=tasks[task].pop(), code=code)
        elif choice < 0.84:
            assigned.append(made := fresh())
            until = int((at + timedelta(minutes=numbers.randrange(1, 120))).timestamp() * 1000)
            said = {
                "dispatcher": "spiffe://a/desk",
                "workload": "spiffe://a/1",
                "task_type": "Refund",
                "until_ms": until,
            }
            digests = {"ticket_sha256": numbers.randbytes(32).hex(), "words_sha256": numbers.randbytes(32).hex()}
            note(EventType.ASSIGNMENT_MADE, assignment=made, **said, **digests)
        elif choice < 0.85 and assigned:
            code = numbers.choice(["open", "taken", "undelivered"])
            note(EventType.ASSIGNMENT_WITHDRAWN, assignment=assigned.pop(0), task="", code=code, by="spiffe://a/desk")
        elif choice < 0.9:
            for step in tasks.pop(task):
                note(EventType.STEP_ENDED, task=task, step=step, code="stream_lost")
            if task in branches:
                note(EventType.BRANCH_CLOSED, task=task, branch=branches.pop(task)[0], code="parent_ended")
            note(EventType.TASK_CLOSED, task=task, code=numbers.choice(["completed", "undelivered"]))
        elif choice < 0.92:
            at_second = int(at.timestamp())
            user = f"u-{numbers.randrange(3)}"
            sid = numbers.choice([None, "s-1", "s-2"])
            note(EventType.SUBJECT_LOGGED_OUT, iss="https://login.acme.test", sub=user, sid=sid, at=at_second)
        elif choice < 0.97:
            locks.append(lock := fresh())
            selector = {"workload": None, "task_type": None, "tool": "mail.*", "target": None}
            note(EventType.LOCK_SET, lock=lock, selector=selector, reason="an incident", by="spiffe://a/operator")
        elif locks:
            note(EventType.LOCK_LIFTED, lock=locks.pop(numbers.randrange(len(locks))), reason="over", by="jo")
    return events[:count]
