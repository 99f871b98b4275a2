"""An open task as a handle: the place where its steps are declared."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from stepgrant.answers import Limits, Opened, ToolOffer
from stepgrant.clock import Clock
from stepgrant.errors import ArgumentsInvalidError, InvalidIdError, MisuseError
from stepgrant.handed import MAX_PURPOSE, Assignment, Handed, HandOff
from stepgrant.holding import Holder, StepIntent
from stepgrant.ids import parse_name, parse_tool, ulid
from stepgrant.intent import MAX_ARGUMENTS_BYTES, MAX_PARAMETERS_BYTES, canonical, from_python
from stepgrant.lease import Lease
from stepgrant.session import Opening
from stepgrant.step import CURRENT_STEP, Step, leave
from stepgrant.subject_token import SubjectToken, fitting

CURRENT_TASK: Final[ContextVar[Task | None]] = ContextVar("stepgrant_task", default=None)
"""The task that code here works for; what is called inside inherits it."""
ULID_ENTROPY: Final = 10
What: TypeAlias = str | Assignment | HandOff
"""What a task is opened with: its type, or what another workload handed over, which says its words."""


class Task:
    """One open task. Made by `Client.task`; its steps must be over before it is."""

    def __init__(
        self,
        lease: Lease,
        opening: Opening,
        clock: Clock,
        *,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._lease = lease
        self._opening = opening
        self._clock = clock
        self._entropy = entropy
        self._process = os.getpid()

    def __repr__(self) -> str:
        """Type and id; never a parameter."""
        return f"<Task {self.type} {self.id}{self.branch_id and f' branch {self.branch_id}'}>"

    @property
    def holder(self) -> Holder:
        """What grants of steps that are declared now are bound to. Those of earlier steps are bound to what it was then."""
        return self._lease.holder

    @property
    def _opened(self) -> Opened:
        return self._lease.opened

    @property
    def id(self) -> str:
        """The task's id, a ULID. All branches of a task have the same."""
        return self._opened.task_id

    @property
    def branch_id(self) -> str:
        """The branch of the task that this is: the id of the hand-off that it was opened with. Empty = the task itself."""
        return self._opened.branch_id

    @property
    def type(self) -> str:
        """The task type."""
        return self._opening.task_type

    @property
    def expires_at(self) -> datetime:
        """When the task ends at the latest, by the gateway's clock."""
        return self._opened.expires_at

    @property
    def tools(self) -> tuple[ToolOffer, ...]:
        """Tools that this task type could be permitted."""
        return self._opened.tools

    @property
    def limits(self) -> Limits:
        """What the gateway holds this task to."""
        return self._opened.limits

    @property
    def open(self) -> bool:
        """True while steps can be declared."""
        return self._lease.over is None

    def step(
        self,
        tool: str,
        arguments: Mapping[str, object] | None = None,
        *,
        purpose: str = "",
        wanted_ttl: timedelta | None = None,
        parent: Step | None = None,
        renew: bool = True,
    ) -> Step:
        """A step to be entered with `async with`; nothing is declared before that.

        `wanted_ttl` can only shorten what policy gives. `parent` makes it a child of that step, within its envelope.
        `renew` False lets the grant run out under the body.

        Raises:
            Revoked: the parent has ended against the program's will.
            MisuseError: another process, not a tool name, a negative lifetime, or a purpose beyond MAX_PURPOSE characters.
            ArgumentsInvalidError: strict JSON cannot carry the arguments, or they are too large.
        """
        if os.getpid() != self._process:
            raise MisuseError(
                f"{tool} was called in another process than its task was opened in: open one here as well"
            )
        try:
            parse_tool(tool)
        except InvalidIdError as error:
            raise MisuseError(str(error)) from error
        if len(purpose) > MAX_PURPOSE:
            raise MisuseError(f"the purpose of {tool} takes more than {MAX_PURPOSE} characters: shorten it")
        if wanted_ttl is not None and wanted_ttl < timedelta(milliseconds=1):
            raise MisuseError(f"the wanted lifetime of {tool} is below a millisecond: leave it out, or ask for more")
        if parent is not None:
            parent.refuse_ended()
        most = min(MAX_ARGUMENTS_BYTES, self.limits.arguments_bytes)
        intent = StepIntent(
            step_id=ulid(self._clock.now(), self._entropy(ULID_ENTROPY)),
            parent_step_id="" if parent is None else parent.id,
            tool=tool,
            arguments_json=json_object(arguments or {}, most, f"the arguments of {tool}"),
            purpose=purpose,
            wanted_ttl=wanted_ttl,
        )
        return Step(self._lease, self._opening, intent, self._clock, renew=renew)


@contextmanager
def working_for(task: Task) -> Iterator[None]:
    """What is called inside works for this task, and is no child of a step of another."""
    current, outer = CURRENT_TASK.set(task), CURRENT_STEP.set(None)
    try:
        yield
    finally:
        leave(CURRENT_STEP, outer)
        leave(CURRENT_TASK, current)


def opening_of(
    what: What, parameters: Mapping[str, object], purpose: str, subject_token: SubjectToken | None
) -> Opening:
    """What a task is opened with: a task type and its words, or an assignment or a hand-off, which says them.

    Raises:
        MisuseError: words beside one that says them, a subject token beside a hand-off, no name of a type, or a purpose or
            token beyond its bound.
        ArgumentsInvalidError: strict JSON cannot carry the parameters, or they are too large.
    """
    task_type, ticket, hand_off = "", b"", b""
    if isinstance(what, Handed):
        if parameters or purpose:
            raise MisuseError("an assignment or a hand-off says parameters and purpose itself: leave them out")
        task_type, parameters, purpose = what.task_type, what.parameters, what.purpose
        if isinstance(what, HandOff):
            hand_off = what.ticket
            if subject_token is not None:
                raise MisuseError("the user of a branch is that of its task: leave `subject_token` out")
        else:
            ticket = what.ticket
    else:
        task_type = what
    try:
        parse_name(task_type, "the task type")
    except InvalidIdError as error:
        raise MisuseError(str(error)) from error
    if len(purpose) > MAX_PURPOSE:
        raise MisuseError(f"the purpose of {task_type} takes more than {MAX_PURPOSE} characters: shorten it")
    token, bring = "", None
    if callable(subject_token):
        bring = subject_token
    elif subject_token is not None:
        token = fitting(subject_token, f"the subject token of {task_type}")
    text = json_object(parameters, MAX_PARAMETERS_BYTES, f"the parameters of {task_type}")
    return Opening(task_type, text, purpose, token, ticket, hand_off, bring)


def json_object(members: Mapping[str, object], most: int, what: str) -> str:
    """The canonical JSON text (RFC 8785) of plain Python members, at most `most` bytes.

    Raises:
        ArgumentsInvalidError: strict JSON cannot carry them, or they are too large; never with a value in the text.
    """
    text = canonical(from_python(dict(members)))
    if len(text) > most:
        raise ArgumentsInvalidError(f"{what} take {len(text)} bytes, more than {most}", fix="send less at once")
    return text.decode("utf-8")
