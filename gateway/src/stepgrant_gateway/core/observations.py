"""What an operator wants to see of a running gateway, as values: how decisions went, what happened, what took how long.

No argument, parameter or token is in any of them, and no label has more values than this code base names.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Final


class Boundary(Enum):
    """Where a decision was asked for."""

    ASSIGN = "assign"
    OPEN = "open"
    DECLARE = "declare"
    RENEW = "renew"


@dataclass(slots=True)
class Course:
    """The course of one decision, noted as it goes: `began`, `decided`, `recorded` are times of the monotonic clock.

    What a decision did not come to stays None. `tool` is empty unless the catalog knows it, `task_id` until there is one.
    """

    boundary: Boundary
    began: timedelta
    task_id: str = ""
    step_id: str = ""
    tool: str = ""
    decided: timedelta | None = None
    recorded: timedelta | None = None


class Count(Enum):
    """What is counted."""

    GRANT_ENDED = "grant_ended"
    GRANT_HELD_SECONDS = "grant_held_seconds"
    REDEMPTION = "redemption"
    FEED_CUT_OFF = "feed_cut_off"
    LEDGER_FAILURE = "ledger_failure"
    QUOTA_REFUSAL = "quota_refusal"
    RELOAD = "reload"
    CALLER_DENIED = "caller_denied"
    BUNDLE_REFUSED = "bundle_refused"


class Timing(Enum):
    """What is timed."""

    LEDGER_APPEND = "ledger_append"
    REVOKE_TO_FEED = "revoke_to_feed"


class Unobserved:
    """The observer where nobody looks."""

    def decided(self, course: Course, code: str, answered: timedelta) -> None:
        """Nothing."""

    def count(self, what: Count, label: str = "", by: float = 1.0) -> None:
        """Nothing."""

    def time(self, what: Timing, took: timedelta) -> None:
        """Nothing."""


UNOBSERVED: Final = Unobserved()
