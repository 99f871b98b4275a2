"""Failures of the gateway: one root, a stable code each. Denials are values (`stepgrant.errors.Denial`), not failures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class GatewayError(Exception):
    """Root of the gateway's failures."""

    code: ClassVar[str] = "gateway_error"


class UnrecordedError(GatewayError):
    """The ledger could not record within its bound: what was asked is not done."""

    code = "unrecorded"


class LedgerBrokenError(GatewayError):
    """Stored records that do not form the chain they claim. Nothing is repaired."""

    code = "ledger_broken"


class LedgerUnusableError(GatewayError):
    """A ledger that must not be opened: another process has it, another program or a newer version wrote it."""

    code = "ledger_unusable"


class SnapshotError(GatewayError):
    """A snapshot of the fold that is not believed: what it would have saved is read from the ledger instead."""

    code = "snapshot_refused"


class EventInvalidError(GatewayError):
    """An event or an input that cannot be stored as it is: a bug of the program that recorded it."""

    code = "event_invalid"


class ConfigError(GatewayError):
    """gateway.toml or dev.toml says something that cannot be, or leaves out what must be said."""

    code = "config_invalid"


class BundleUnavailableError(GatewayError):
    """A bundle endpoint cannot be reached, is not who it must be, or serves what is no bundle. What is held stays."""

    code = "bundle_unavailable"


class BundleRefusedError(GatewayError):
    """A bundle that must not take the place of the one that is held: older, or another one under the same number."""

    code = "bundle_refused"


class AssignmentExistsError(GatewayError):
    """The ticket was used for another assignment."""

    code = "already_exists"


class NotAllowedError(GatewayError):
    """The caller is who it says, and may not do this."""

    code = "not_allowed"


class NotFoundError(GatewayError):
    """Nothing of that id is there."""

    code = "not_found"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that is wrong with a policy directory. `line` counts from 1; 0 = the file as a whole."""

    file: str
    line: int
    policy_id: str
    message: str
    nearest: str = ""

    def __str__(self) -> str:
        """One line for a terminal: file:line: [policy] message (did you mean ...?)."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        policy = f" [{self.policy_id}]" if self.policy_id else ""
        nearest = f" Did you mean {self.nearest}?" if self.nearest else ""
        return f"{place}:{policy} {self.message}{nearest}"


class PolicyRefusedError(GatewayError):
    """A policy directory that must not be activated, with everything that is wrong with it."""

    code = "policy_refused"

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        super().__init__("\n".join(str(finding) for finding in findings))
        self.findings = findings


class FetchError(GatewayError):
    """A document that a gateway fetches beforehand is not to be had, or cannot be used. What it has goes on counting for a while."""

    code = "not_fetched"
