"""Logouts take their effect: tasks on behalf of the user end at once, and tokens of before open no other."""

from __future__ import annotations

import logging

from stepgrant_gateway.app.revoking import Endings
from stepgrant_gateway.app.state import State
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.logouts import Logout, logout_data
from stepgrant_gateway.core.ports import Clock, Journal
from stepgrant_gateway.core.steps import StepInput

LOGGED_OUT = "logged_out"
"""The code that tasks end with then."""
logger = logging.getLogger(__name__)


class LoggingOut:
    """What an issuer's logout does here."""

    def __init__(self, *, state: State, clock: Clock, journal: Journal, endings: Endings) -> None:
        self._state = state
        self._clock = clock
        self._journal = journal
        self._endings = endings

    def log_out(self, logout: Logout) -> int:
        """Ends what ran on behalf of the user in that session; how many tasks. In force now, recorded when the ledger can."""
        self._state.logouts.note(logout)
        self._journal.record_end(Event(EventType.SUBJECT_LOGGED_OUT, self._clock.now(), dict(logout_data(logout))))
        # Branches end with their task.
        own = [task for task in self._state.tasks.values() if task.origin is None]
        ended = [task for task in own if task.subject is not None and logout.ends(task.subject)]
        for task in ended:
            reason = "the user was logged out; open the task anew once the user has logged in."
            self._endings.end_task(task, StepInput.REVOKE, code=LOGGED_OUT, reason=reason, by=logout.issuer)
        logger.info(
            "%s has logged a user out; %d tasks ended.", logout.issuer, len(ended), extra={"event": "logged_out"}
        )
        return len(ended)
