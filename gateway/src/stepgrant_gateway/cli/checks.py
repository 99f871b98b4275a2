"""One thing that `stepgrant doctor` looked at: how it is, and what to type if it is not well."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final

from stepgrant_gateway.cli.exits import Exit

if TYPE_CHECKING:
    from stepgrant.spiffe.bundles import BundleSet

LATE: Final = 5
"""An SVID should have been replaced when less than this part of its life is left; SPIRE does it at the half."""

AUTHORITY_SOON: Final = timedelta(minutes=10)
"""Without a successor by then, every identity under an authority ends; the shortest authorities live for hours."""


class State(Enum):
    """How something is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """`says` is what was found, `todo` what to do about it, `command` what to type for that: lines, capitals to be filled in.

    `exit` is the status that a failure ends the command with.
    """

    name: str
    state: State
    says: str
    todo: str = ""
    exit: Exit = Exit.OK
    command: str = ""


def good(name: str, says: str) -> Check:
    """All is well."""
    return Check(name, State.OK, says)


def doubtful(name: str, says: str, todo: str, command: str = "") -> Check:
    """It works, and should be looked at."""
    return Check(name, State.WARNING, says, todo, command=command)


def failed(name: str, says: str, todo: str, status: Exit, command: str = "") -> Check:
    """It does not work."""
    return Check(name, State.FAILED, says, todo, status, command)


def life(name: str, who: str, not_before: datetime, not_after: datetime, now: datetime, command: str = "") -> Check:
    """How long an SVID is still good; a warning when its successor is late, with `command` to see why."""
    left = not_after - now
    says = f"{who}, valid for another {span(left)}"
    if left * LATE < not_after - not_before:
        todo = "its successor is late: see why the SPIFFE agent or server has not replaced it; its log says so"
        return doubtful(name, says, todo, command)
    return good(name, says)


def bundle_life(bundles: BundleSet, now: datetime) -> Iterator[Check]:
    """Of each trust domain whose authorities are known, until when one of them is good; a warning when none is for long."""
    from cryptography import x509

    for bundle in bundles:
        name = "bundle"
        ends = [x509.load_der_x509_certificate(der).not_valid_after_utc for der in bundle.authorities]
        says = f"{bundle.trust_domain}: " + (f"{len(ends)} authorities" if len(ends) != 1 else "1 authority")
        todo, command = (
            "see whether the SPIFFE server has made its next authority; with SPIRE",
            "spire-server bundle show",
        )
        last = max(ends, default=now)
        if not ends:
            yield failed(name, f"{says}: nobody of it is trusted", todo, Exit.UNAVAILABLE, command)
        elif last <= now:
            yield failed(name, f"{says}, none of them valid: nobody of it is trusted", todo, Exit.UNAVAILABLE, command)
        elif last - now < AUTHORITY_SOON:
            yield doubtful(name, f"{says}, the last valid for another {span(last - now)}", todo, command)
        else:
            yield good(name, f"{says}, the last valid for another {span(last - now)}")


def span(length: timedelta) -> str:
    """A length of time in its two largest units, as people say it."""
    seconds = max(int(length.total_seconds()), 0)
    for size, unit, part, smaller in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // part} {smaller}"
    return f"{seconds} s"
