"""`[ledger]` and `[inputs]` of gateway.toml."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from stepgrant_gateway.core.settings import Place, Section, read_flag, read_path, read_paths, setting

MAX_KEPT_DAYS: Final = 3650
MAX_EVENTS: Final = 1_000_000


def read_days(value: object, place: Place) -> timedelta:
    """Whole days."""
    if type(value) is not int or not 1 <= value <= MAX_KEPT_DAYS:
        raise place.error(f"a whole number of days from 1 to {MAX_KEPT_DAYS} is wanted")
    return timedelta(days=value)


def read_events(value: object, place: Place) -> int:
    """A number of events."""
    if type(value) is not int or not 1 <= value <= MAX_EVENTS:
        raise place.error(f"a whole number from 1 to {MAX_EVENTS} is wanted")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSettings(Section):
    """Where decisions are recorded. Exactly one of the two is set."""

    path: Path | None = setting("SQLite file of the ledger, relative to this file.", read_path, None)
    insecure_memory: bool = setting(
        "True: keep the ledger in memory, gone with the process. Loopback only.", read_flag, False
    )
    snapshot_every: int = setting(
        "Events after which the state is written beside the ledger: about as many are read at start.",
        read_events,
        10_000,
    )

    def contradiction(self) -> tuple[str, str] | None:
        """Where decisions are recorded is said, and said once."""
        if (self.path is None) != self.insecure_memory:
            return (
                "path",
                "say where decisions are recorded: set path, or insecure_memory = true to lose the record at each stop; not both",
            )
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSettings(Section):
    """What becomes of the inputs of decisions (arguments, parameters). Exactly one of recipients and discard is set."""

    recipients: tuple[Path, ...] = setting(
        "PEM files of X25519 public keys that inputs are sealed to; only the holders of the private keys read them.",
        read_paths,
        (),
    )
    discard: bool = setting("True: keep no inputs; decisions can then not be replayed.", read_flag, False)
    keep_days: timedelta = setting(
        "Days until the data key of a day is destroyed, and its inputs with it.", read_days, timedelta(days=90)
    )

    def contradiction(self) -> tuple[str, str] | None:
        """What becomes of inputs is said, and said once."""
        if bool(self.recipients) == self.discard:
            return (
                "recipients",
                "say what becomes of decision inputs: set recipients to seal them to, or discard = true to keep none; not both",
            )
        return None
