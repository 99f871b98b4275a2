"""The ledger in memory: for tests, and for `stepgrant dev` when nothing is to stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from threading import Lock

from stepgrant_gateway.core.errors import LedgerBrokenError
from stepgrant_gateway.core.ledger import GENESIS, ChainHead, DataKey, Record, SealedInput


class MemoryLedger:
    """`LedgerStore` and `InputStore` in memory: gone with the process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._chains: dict[str, list[Record]] = {}
        self._inputs: dict[tuple[str, int], SealedInput] = {}
        self._keys: dict[str, DataKey] = {}

    def append(self, records: Sequence[Record], inputs: Sequence[SealedInput], keys: Sequence[DataKey] = ()) -> None:
        """See `LedgerStore`."""
        with self._lock:
            for record in records[:1]:
                self._refuse_fork(record)
            self._keys = {key.key_id: key for key in keys} | self._keys
            for record in records:
                self._chains.setdefault(record.instance_id, []).append(record)
            for item in inputs:
                self._inputs[item.instance_id, item.sequence] = item

    def heads(self) -> Sequence[ChainHead]:
        """See `LedgerStore`."""
        with self._lock:
            return [ChainHead(name, chain[-1].sequence, chain[-1].hash) for name, chain in self._chains.items()]

    def read(self, instance_id: str, after: int, limit: int) -> Sequence[Record]:
        """See `LedgerStore`."""
        with self._lock:
            return self._chains.get(instance_id, [])[after : after + limit]

    def input_of(self, instance_id: str, sequence: int) -> tuple[SealedInput, DataKey] | None:
        """See `InputStore`."""
        with self._lock:
            found = self._inputs.get((instance_id, sequence))
            return None if found is None else (found, self._keys[found.key_id])

    def expire(self, before: date) -> int:
        """See `InputStore`."""
        with self._lock:
            dead = {key_id for key_id, key in self._keys.items() if key.day < before}
            self._keys = {key_id: key for key_id, key in self._keys.items() if key_id not in dead}
            self._inputs = {place: item for place, item in self._inputs.items() if item.key_id not in dead}
            return len(dead)

    def close(self) -> None:
        """Nothing to let go of."""

    def _refuse_fork(self, first: Record) -> None:
        chain = self._chains.get(first.instance_id, [])
        sequence, previous = (chain[-1].sequence, chain[-1].hash) if chain else (0, GENESIS)
        if (first.sequence, first.previous_hash) != (sequence + 1, previous):
            raise LedgerBrokenError(
                f"ledger of gateway instance {first.instance_id}: record {first.sequence} does not follow record {sequence}."
            )


class MemorySnapshots:
    """`SnapshotStore` in memory."""

    def __init__(self) -> None:
        self._kept: list[bytes] = []

    def keep(self, snapshot: bytes) -> None:
        """See `SnapshotStore`."""
        self._kept = [snapshot, *self._kept[:1]]

    def kept(self) -> Iterator[bytes]:
        """See `SnapshotStore`."""
        yield from self._kept
