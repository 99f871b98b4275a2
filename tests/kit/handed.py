"""The support desk that hands searches on: from the support agent to a clerk, and on to others, within envelopes."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from stepgrant.errors import Denial
from stepgrant.intent import from_python
from stepgrant_gateway.app.leasing import TaskLease
from stepgrant_gateway.core.boundary import HandedOff, HandOffStep, OpenTask, Pushed, StepGranted
from stepgrant_gateway.core.delegation import AnyValue, Constraint, Envelope, Exact
from stepgrant_gateway.core.principal import Peer
from stepgrant_gateway.policy.load import load_policy
from stepgrant_gateway.policy.sets import LoadedPolicySet
from tests.kit.heart import REFUND, SUPPORT, Heart, heart

TEAM = "spiffe://dev.stepgrant.test/agent"
CLERK = f"{TEAM}/clerk"
PACKER = f"{TEAM}/packer"
RUNNER = f"{TEAM}/runner"
LAST = f"{TEAM}/last"
STRANGER = "spiffe://dev.stepgrant.test/stranger"
ORDER = "ord_00000042"
CALLS = """
        calls: # what a search may be split up into
          orders.search: {query: any, limit: any}
          orders.get: {order_id: any}
          mail.send: {to: any, subject: any, body: any}
          orders.refund: {order_id: any, amount: any}
"""
HANDING = f"""
@id("the-team-hands-on")
permit (principal is Task::Refund, action == Action::"task.hand_off", resource)
when {{ context.hand_off.to in Workload::"{TEAM}" && context.hand_off.tool == Tool::"orders.search" }};

@id("never-tainted")
@reason("What was read from outside is not handed on.")
forbid (principal, action == Action::"task.hand_off", resource)
when {{ context.task.labels.contains(Label::"untrusted") }};

@id("packers-do-not-mail")
@reason("Whoever a packer has part in sends no mail.")
forbid (principal in Workload::"{PACKER}", action == Action::"mail.send", resource);
"""
SEARCH: dict[str, object] = {"query": "late"}
GET: dict[str, object] = {"order_id": ORDER}
MAIL: dict[str, object] = {"to": ["jo@x.org"], "subject": "s", "body": "b"}
SEARCHES = {"query": AnyValue(), "limit": AnyValue()}
WHOLE = Envelope({"orders.search": SEARCHES, "orders.get": {"order_id": AnyValue()}, "mail.send": dict.fromkeys(("to", "subject", "body"), AnyValue())})  # fmt: skip
READS = Envelope({"orders.search": SEARCHES, "orders.get": {"order_id": Exact(ORDER)}})


def write_handed(into: Path, *, more: str = "") -> Path:
    """A policy directory below `into`, with these further policies."""
    directory = into / "policy"
    shutil.copytree(SUPPORT, directory, ignore=shutil.ignore_patterns("refund.yaml"))
    catalog = directory / "catalog.yaml"
    searched = '        target: "pg://orders"\n        labels: [confidential]\n'
    text = catalog.read_text()
    assert text.count(searched) == 1
    catalog.write_text(text.replace(searched, searched + CALLS.lstrip("\n")))
    (directory / "handing.cedar").write_text(HANDING + more)
    return directory


def tools(**arguments: dict[str, Constraint]) -> Envelope:
    """An envelope, its tools written with two underscores for the dot."""
    return Envelope({name.replace("__", "."): constraints for name, constraints in arguments.items()})


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory, written once a module that has this fixture."""
    return write_handed(tmp_path_factory.mktemp("handed"))


@pytest.fixture(scope="module")
def loaded(directory: Path) -> LoadedPolicySet:
    """What was loaded of it: it is immutable."""
    return load_policy(directory)


@pytest.fixture
async def built(directory: Path, loaded: LoadedPolicySet) -> AsyncIterator[Heart]:
    """The application over it."""
    async with heart(directory=directory, policy=loaded) as application:
        yield application


async def asked(
    built: Heart, lease: TaskLease, step_id: str, to: str = CLERK, envelope: Envelope = WHOLE
) -> HandedOff | Denial:
    """What the agent gets that hands this step on."""
    return await lease.hand_off(HandOffStep(step_id, to, envelope, "a part of it"))


async def handed(
    built: Heart, lease: TaskLease, to: str = CLERK, envelope: Envelope = WHOLE, *, parent: str | None = None
) -> HandedOff:
    """A hand-off of a new search; fails the test when it is denied."""
    step = await built.granted(lease, "orders.search", SEARCH, parent=parent)
    answer = await asked(built, lease, step.step_id, to, envelope)
    assert isinstance(answer, HandedOff), answer
    return answer


async def opened_by(
    built: Heart,
    ticket: bytes,
    of: str = CLERK,
    *,
    peer: Peer | None = None,
    task_type: str = "Refund",
    parameters: dict[str, object] | None = None,
    pushed: list[Pushed] | None = None,
    lives: timedelta = timedelta(hours=1),
) -> TaskLease | Denial:
    """What a workload gets that opens a branch; by default the right one, with the right words."""
    given = from_python(REFUND if parameters is None else parameters)
    assert isinstance(given, dict)
    request = OpenTask(task_type, given, "my part", b"r" * 32, hand_off=ticket)
    hear = built.pushed if pushed is None else pushed
    return await built.tasks.open(peer or built.peer(of, lives=lives), request, hear.append)


async def branch(built: Heart, handed_off: HandedOff, of: str = CLERK, **more: object) -> TaskLease:
    """The lease on a branch; fails the test when it is denied."""
    lease = await opened_by(built, handed_off.ticket, of, **more)  # type: ignore[arg-type]
    assert isinstance(lease, TaskLease), lease
    return lease


async def answer_to(
    built: Heart, lease: TaskLease, tool: str, arguments: dict[str, object], **more: object
) -> StepGranted | Denial:
    """What a declare comes to."""
    return await lease.declare(built.intent(tool, arguments, **more))  # type: ignore[arg-type]
