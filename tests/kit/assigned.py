"""The support desk whose refunds must be assigned: by the ticket system, to the support agent."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from stepgrant.errors import Denial, DenialCode
from stepgrant.intent import from_python
from stepgrant_gateway.app.leasing import TaskLease
from stepgrant_gateway.core.boundary import Assigned, AssignTask, OpenTask, Pushed
from stepgrant_gateway.core.principal import Peer
from stepgrant_gateway.policy.load import load_policy
from stepgrant_gateway.policy.sets import LoadedPolicySet
from tests.kit.heart import AGENT, REFUND, SUPPORT, Heart, heart

DESK = "spiffe://dev.stepgrant.test/desk/tickets"
TICKET = b"t" * 32
PURPOSE = "INC-4711"
OPENING = """
@id("support-opens-assigned-refunds")
permit (
  principal is Task::Refund in Workload::"spiffe://dev.stepgrant.test/agent/support",
  action == Action::"task.open",
  resource
)
when { context.open.vouched_by == "assignment" }
when { context.open has dispatcher && context.open.dispatcher in Dispatcher::"spiffe://dev.stepgrant.test/desk" };

@id("desk-assigns-refunds")
permit (
  principal is Task::Refund in Workload::"spiffe://dev.stepgrant.test/agent",
  action == Action::"task.assign",
  resource
)
when { context.assign.by in Dispatcher::"spiffe://dev.stepgrant.test/desk" };

@id("triage-opens-triage")
permit (
  principal is Task::Triage in Workload::"spiffe://dev.stepgrant.test/agent/triage",
  action == Action::"task.open",
  resource
)
when { context.open.vouched_by == "assignment" };
"""
CASES = """
- name: the ticket system assigns a refund
  task: {type: Refund, workload: "spiffe://dev.stepgrant.test/agent/support", parameters: {order_id: ord_00000042, customer: jo@x.org}}
  given: {dispatcher: "spiffe://dev.stepgrant.test/desk/tickets"}
  assign: true
  expect: {decision: granted, policies: [desk-assigns-refunds]}
- name: nobody else does
  task: {type: Refund, workload: "spiffe://dev.stepgrant.test/agent/support", parameters: {order_id: ord_00000042, customer: jo@x.org}}
  given: {dispatcher: "spiffe://dev.stepgrant.test/agent/support"}
  assign: true
  expect: {decision: denied, code: no_permit}
- name: and only what it assigned is opened
  task: {type: Refund, workload: "spiffe://dev.stepgrant.test/agent/support", parameters: {order_id: ord_00000042, customer: jo@x.org}}
  given: {vouched_by: assignment, dispatcher: "spiffe://dev.stepgrant.test/desk/tickets"}
  open: true
  expect: {decision: granted, policies: [support-opens-assigned-refunds]}
- name: never what the agent made up
  task: {type: Refund, workload: "spiffe://dev.stepgrant.test/agent/support", parameters: {order_id: ord_00000042, customer: jo@x.org}}
  open: true
  expect: {decision: denied, code: no_permit, policies: [support-opens-assigned-refunds]}
"""


def write_assigned(into: Path) -> Path:
    """A policy directory below `into`."""
    directory = into / "policy"
    shutil.copytree(SUPPORT, directory, ignore=shutil.ignore_patterns("tests", "opening.cedar"))
    catalog = directory / "catalog.yaml"
    text = catalog.read_text().replace("\ntasks:", '\ndispatchers: ["spiffe://dev.stepgrant.test/desk"]\n\ntasks:', 1)
    catalog.write_text(text)
    (directory / "opening.cedar").write_text(OPENING)
    (directory / "tests").mkdir()
    (directory / "tests" / "assigned.yaml").write_text(CASES)
    return directory


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory, written once a module that has this fixture."""
    return write_assigned(tmp_path_factory.mktemp("assigned"))


@pytest.fixture(scope="module")
def loaded(policy: Path) -> LoadedPolicySet:
    """What was loaded of it: it is immutable."""
    return load_policy(policy)


@pytest.fixture
async def built(policy: Path, loaded: LoadedPolicySet) -> AsyncIterator[Heart]:
    """The application over it."""
    async with heart(directory=policy, policy=loaded) as application:
        yield application


def assign_task(
    built: Heart, *, ticket: bytes = TICKET, lives: timedelta = timedelta(hours=1), **more: object
) -> AssignTask:
    """A refund for the support agent; `more` replaces what is said of it."""
    said: dict[str, object] = {
        "workload": AGENT,
        "task_type": "Refund",
        "parameters": from_python(REFUND),
        "purpose": PURPOSE,
        "until": built.clock.now() + lives,
        **more,
    }
    return AssignTask(ticket, **said)  # type: ignore[arg-type]


async def assigned(built: Heart, *, by: str = DESK, **more: object) -> str:
    """The id of a new assignment; fails the test when it is denied."""
    answer = await built.assigning.assign(built.peer(by), assign_task(built, **more))  # type: ignore[arg-type]
    assert isinstance(answer, Assigned), answer
    return answer.assignment_id


async def opened_with(
    built: Heart,
    ticket: bytes = TICKET,
    *,
    peer: Peer | None = None,
    task_type: str = "Refund",
    parameters: dict[str, object] | None = None,
    purpose: str = PURPOSE,
    pushed: list[Pushed] | None = None,
) -> TaskLease | Denial:
    """What an agent gets that opens a task with an assignment; by default the right one, with the right words."""
    given = from_python(REFUND if parameters is None else parameters)
    assert isinstance(given, dict)
    hear = built.pushed if pushed is None else pushed
    request = OpenTask(task_type, given, purpose, b"k" * 32, assignment=ticket)
    return await built.tasks.open(peer or built.peer(), request, hear.append)


def code_of(answer: object) -> DenialCode:
    """Of a denial; fails the test when it is none."""
    assert isinstance(answer, Denial), answer
    return answer.code


async def lease_of(built: Heart, **more: object) -> TaskLease:
    """As `opened_with`; fails the test when it is denied."""
    lease = await opened_with(built, **more)  # type: ignore[arg-type]
    assert isinstance(lease, TaskLease), lease
    return lease
