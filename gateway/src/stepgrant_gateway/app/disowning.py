"""An issuer takes a key back: whom it had proven is proven no more, and tasks on behalf of such users end at once."""

from __future__ import annotations

import logging

from stepgrant_gateway.app.revoking import Endings
from stepgrant_gateway.app.state import State
from stepgrant_gateway.core.ports import SubjectProver
from stepgrant_gateway.core.steps import StepInput

SUBJECT_LOST = "subject_lost"
"""The code that tasks end with then."""
logger = logging.getLogger(__name__)


class Disowning:
    """What a change of the keys of users' issuers does here."""

    def __init__(self, *, state: State, endings: Endings, prover: SubjectProver | None) -> None:
        """`prover` None: no subject is taken."""
        self._state = state
        self._endings = endings
        self._prover = prover

    def look(self) -> int:
        """Ends each task whose subject does not stand any more; how many. In force now, recorded when the ledger can."""
        if self._prover is None:
            return 0
        stands = self._prover.still_stands
        # Branches end with their task.
        own = [task for task in self._state.tasks.values() if task.origin is None]
        lost = [task for task in own if task.subject is not None and not stands(task.subject)]
        for task in lost:
            reason = (
                "the issuer has taken back the key that signed its subject's token; open the task anew with a new one."
            )
            self._endings.end_task(task, StepInput.REVOKE, code=SUBJECT_LOST, reason=reason, by="gateway")
        if lost:
            logger.warning(
                "An issuer has taken back a key; %d tasks on behalf of its users ended.", len(lost),
                extra={"event": "subjects_lost"},
            )  # fmt: skip
        return len(lost)
