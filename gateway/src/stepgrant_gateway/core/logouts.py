"""Logouts: sessions of users that their issuers have ended, and for how long a token of one is remembered to be of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from stepgrant_gateway.core.principal import Subject

REMEMBERED: Final = timedelta(days=1)
"""How long a logout keeps tokens of before from opening tasks. Tokens for a gateway should live no longer than that."""
MAX_LOGOUTS: Final = 16_384
"""Logouts remembered. Beyond them the oldest goes: what it had ended stays ended."""


@dataclass(frozen=True, slots=True)
class Logout:
    """An issuer has ended all sessions of the user `sub`, or the session `sid`, or that session of that user, at `at`."""

    issuer: str
    sub: str | None
    sid: str | None
    at: datetime

    def ends(self, subject: Subject) -> bool:
        """True if the subject's token is of a session that this ended.

        A token that does not say of which session it is, is of every one of its user (fail closed). One that was issued after
        the logout is of a later session.
        """
        session, issued = subject.claims.get("sid"), subject.claims.get("iat")
        if subject.id.issuer != self.issuer:
            return False
        if self.sub is not None and subject.id.subject != self.sub:
            return False
        if self.sid is not None and session != self.sid and not (session is None and self.sub is not None):
            return False
        # Whole seconds, as tokens have them: of the same second is before.
        return not isinstance(issued, Decimal) or issued <= int(self.at.timestamp())


@dataclass(slots=True)
class Logouts:
    """Those that are remembered, the latest of each user and session."""

    known: dict[tuple[str, str | None, str | None], Logout] = field(default_factory=dict)

    def note(self, logout: Logout) -> None:
        """Remembers it."""
        key = (logout.issuer, logout.sub, logout.sid)
        before = self.known.pop(key, None)
        self.known[key] = logout if before is None or before.at < logout.at else before
        if len(self.known) > MAX_LOGOUTS:
            del self.known[next(iter(self.known))]

    def ended(self, subject: Subject) -> bool:
        """True if the token that proved the subject is of a session that has ended."""
        return any(logout.ends(subject) for logout in self._about(subject))

    def tidy(self, now: datetime) -> None:
        """Forgets what is older than REMEMBERED."""
        self.known = {key: logout for key, logout in self.known.items() if logout.at > now - REMEMBERED}

    def _about(self, subject: Subject) -> Iterator[Logout]:
        """The few that can matter, however many are known; all of them only for a token without a session."""
        session = subject.claims.get("sid")
        if not isinstance(session, str):
            yield from self.known.values()
            return
        of = subject.id
        for key in ((of.issuer, of.subject, None), (of.issuer, None, session), (of.issuer, of.subject, session)):
            if key in self.known:
                yield self.known[key]


def logout_of(data: dict[str, str | int | None]) -> Logout:
    """The logout that an event's data, or a snapshot's line, tells of."""
    at = datetime.fromtimestamp(int(data["at"] or 0), UTC)
    sub, sid = data["sub"], data["sid"]
    return Logout(str(data["iss"]), None if sub is None else str(sub), None if sid is None else str(sid), at)


def logout_data(logout: Logout) -> dict[str, str | int | None]:
    """A logout as plain data."""
    return {"iss": logout.issuer, "sub": logout.sub, "sid": logout.sid, "at": int(logout.at.timestamp())}
