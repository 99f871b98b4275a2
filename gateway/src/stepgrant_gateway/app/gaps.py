"""Outcomes that the ledger cannot vouch for: nobody reported, nobody witnessed, or two say different things."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from stepgrant_gateway.core.errors import LedgerBrokenError
from stepgrant_gateway.core.events import EventType
from stepgrant_gateway.core.ledger import StoredEvent


class Gap(Enum):
    """What is missing of a step's outcome."""

    UNREPORTED = "unreported"
    """The agent never said how it came out, and the call may have been made."""
    UNWITNESSED = "unwitnessed"
    """The agent says that it is done, and no resource took a use of its grant."""
    CONTRADICTED = "contradicted"
    """Agent and resource name different outcomes, or different digests of the result."""


@dataclass(frozen=True, slots=True)
class OutcomeGap:
    """A step with a gap. `used`: a resource took a use of its grant, or said how the call came out."""

    at: datetime
    task: str
    step: str
    tool: str
    state: str
    gap: Gap
    used: bool


@dataclass(slots=True)
class _Course:
    """What is known of one step: how it ended, and each word on its outcome with the digest that came with it."""

    tool: str
    counted: bool
    used: bool = False
    ended: Mapping[str, Any] | None = None
    at: datetime | None = None
    reported: list[tuple[str, str | None]] = field(default_factory=list)
    attested: list[tuple[str, str | None]] = field(default_factory=list)

    @property
    def gap(self) -> Gap | None:
        if self.ended is None or self.ended["code"] == "undelivered":
            return None
        for outcome, digest in self.reported:
            for witnessed, result in self.attested:
                if outcome != witnessed or (digest and result and digest != result):
                    return Gap.CONTRADICTED
        if not self.reported:
            # A step that was taken away before its counted use was taken has done nothing.
            idle = self.ended["state"] == "revoked" and self.counted and not self.used
            return None if idle else Gap.UNREPORTED
        if self.counted and not self.used and any(outcome == "completed" for outcome, _ in self.reported):
            return Gap.UNWITNESSED
        return None


def find_gaps(events: Iterable[StoredEvent]) -> Iterator[OutcomeGap]:
    """The steps that have ended with a gap, in the order of their declaration; steps that still live have none.

    Raises:
        LedgerBrokenError: a record lacks what an event of its type holds.
    """
    courses: dict[tuple[str, str], _Course] = {}
    for stored in events:
        try:
            _follow(courses, stored)
        except (KeyError, TypeError) as error:
            raise LedgerBrokenError(
                f"ledger of gateway instance {stored.instance_id}: record {stored.sequence} is a"
                f" {stored.event.type.value} without what such an event holds."
            ) from error
    for (task, step), course in courses.items():
        if course.gap is not None and course.ended is not None and course.at is not None:
            yield OutcomeGap(course.at, task, step, course.tool, course.ended["state"], course.gap, course.used)


def _follow(courses: dict[tuple[str, str], _Course], stored: StoredEvent) -> None:
    event, data = stored.event, stored.event.data
    if event.type is EventType.STEP_GRANTED:
        courses[data["task"], data["step"]] = _Course(data["tool"], counted=data["uses"] is not None)
        return
    course = courses.get((data.get("task", ""), data.get("step", "")))
    if course is None:
        return
    match event.type:
        case EventType.GRANT_REDEEMED:
            course.used = True
        case EventType.STEP_ATTESTED:
            course.used = True
            course.attested.append((data["outcome"], data["result_sha256"]))
        case EventType.STEP_ENDED:
            course.ended, course.at = data, event.at
            if data["state"] in {"completed", "failed"}:
                course.reported.append((data["state"], data.get("result_sha256")))
        case EventType.STEP_LATE_OUTCOME:
            course.reported.append((data["outcome"], data.get("result_sha256")))
        case _:
            pass
