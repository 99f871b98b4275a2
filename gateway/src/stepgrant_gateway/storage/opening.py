"""The engine and the sealer that gateway.toml asks for."""

from __future__ import annotations

from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.core.ports import Entropy, Sealer, SnapshotStore
from stepgrant_gateway.storage.inputs import DigestSealer, RecipientSealer, recipient_from_pem
from stepgrant_gateway.storage.memory import MemoryLedger, MemorySnapshots
from stepgrant_gateway.storage.settings import InputSettings, LedgerSettings
from stepgrant_gateway.storage.snapshots import SnapshotFiles
from stepgrant_gateway.storage.sqlite import SqliteLedger


def open_ledger(settings: LedgerSettings) -> tuple[SqliteLedger | MemoryLedger, SnapshotStore]:
    """The open ledger, and what keeps snapshots of its fold; blocking. Raises LedgerUnusableError or LedgerBrokenError."""
    if settings.path is None:
        return MemoryLedger(), MemorySnapshots()
    return SqliteLedger(settings.path), SnapshotFiles(settings.path)


def bundle_store(settings: LedgerSettings) -> SnapshotStore:
    """What keeps fetched bundles: files beside the ledger, `<ledger>.federation`; in memory if the ledger is."""
    return MemorySnapshots() if settings.path is None else SnapshotFiles(settings.path, "federation")


def make_sealer(settings: InputSettings, entropy: Entropy) -> Sealer:
    """What seals inputs, or only digests them; raises ConfigError when a recipient's key cannot be read."""
    if settings.discard:
        return DigestSealer(entropy)
    try:
        recipients = [recipient_from_pem(path.read_bytes()) for path in settings.recipients]
    except OSError as error:
        raise ConfigError(f"inputs.recipients: {error.filename}: {error.strerror}") from error
    return RecipientSealer(recipients, entropy)
