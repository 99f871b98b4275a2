"""What `stepgrant doctor --config` finds in and around a ledger: who holds it, how long its disk lasts, what it says of now.

Nothing is changed. Whoever reads a ledger that nobody holds leaves an empty `-wal` and a `-shm` beside it, which the next
start takes for its own.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stepgrant.grant import LEEWAY
from stepgrant_gateway.cli.checks import Check, doubtful, failed, good, span
from stepgrant_gateway.cli.exits import Exit
from stepgrant_gateway.core.errors import LedgerBrokenError, LedgerUnusableError, SnapshotError
from stepgrant_gateway.storage.space import LITTLE, free_bytes

if TYPE_CHECKING:
    from stepgrant_gateway.core.events import Event
    from stepgrant_gateway.core.ledger import ChainHead
    from stepgrant_gateway.storage.sqlite import SqliteLedgerReader

LAST: Final = 4096
"""Records at the end of the newest chain that say what is going on."""
SHORT: Final = timedelta(minutes=1)
"""Records of a shorter time than this say nothing about the days to come."""
SOON: Final = timedelta(days=7)
"""A disk that is full by then needs somebody now: over a weekend nobody looks."""
TOO_LITTLE: Final = 64 * 1024**2
"""Free bytes below which the next busy minute may end in refusals."""

Free = Callable[[Path], int]
Now = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Recent:
    """The end of the newest chain: its events, oldest first, and how many events all chains have."""

    heads: tuple[ChainHead, ...]
    events: tuple[Event, ...]

    @property
    def total(self) -> int:
        """Events in all chains."""
        return sum(head.sequence for head in self.heads)

    @property
    def per_second(self) -> float | None:
        """Events a second of late; None if it is too short a time to say."""
        passed = self.events[-1].at - self.events[0].at
        return len(self.events) / passed.total_seconds() if passed >= SHORT else None

    @property
    def policy(self) -> str | None:
        """Digest of the policy set that the newest of these events goes by."""
        return next((event.data["policy"] for event in reversed(self.events) if "policy" in event.data), None)


def examine_ledger(path: Path, directory_digest: str | None, now: Now, *, free: Free = free_bytes) -> Iterator[Check]:
    """Every check of a ledger that is there, or was. `directory_digest`: of the policy directory, None if it is refused."""
    held = is_held(path)
    lost = _lost(path)
    if lost is not None:
        yield lost
        return
    yield _holder(path, held=held)
    if not path.is_file() or not path.stat().st_size:
        yield _space(path, None, free(path.parent))
        return
    from stepgrant_gateway.storage.sqlite import SqliteLedgerReader

    try:
        with closing(SqliteLedgerReader(path)) as reader:
            recent = read_recent(reader)
            yield _space(path, recent, free(path.parent))
            if recent is not None:
                yield _time(recent, now())
                yield _snapshot(path, reader, recent)
                yield _active_policy(recent.policy, directory_digest, held=held)
    except (LedgerUnusableError, LedgerBrokenError) as error:
        status = Exit.BROKEN if isinstance(error, LedgerBrokenError) else Exit.UNAVAILABLE
        yield failed("ledger's records", str(error), "see where it breaks", status, f"stepgrant audit verify {path}")


def is_held(path: Path) -> bool | None:
    """Whether a gateway has the ledger now; None if that cannot be seen. The lock is tried for a moment, and let go."""
    try:
        descriptor = os.open(lock_of(path), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_recent(reader: SqliteLedgerReader) -> Recent | None:
    """The end of the newest chain, verified; None of an empty ledger.

    Raises:
        LedgerBrokenError: it does not verify.
    """
    from stepgrant_gateway.core.chain import follow_chain
    from stepgrant_gateway.core.ledger import ChainHead

    heads = tuple(reader.heads())
    if not heads:
        return None
    head = heads[-1]
    start = max(0, head.sequence - LAST)
    after = None
    if start:
        before = reader.read(head.instance_id, start - 1, 1)
        after = ChainHead(head.instance_id, start, before[0].hash) if before else None
    records = reader.read(head.instance_id, start, LAST)
    return Recent(heads, tuple(stored.event for stored in follow_chain(head.instance_id, records, after=after)))


def lock_of(path: Path) -> Path:
    """The file that says who holds the ledger, and that there is one."""
    return path.with_name(path.name + ".lock")


def _lost(path: Path) -> Check | None:
    """The mark in the lock file says that a ledger was begun here; without one, what it held is gone."""
    lock = lock_of(path)
    begun = lock.is_file() and lock.stat().st_size > 0
    if not begun or (path.is_file() and path.stat().st_size):
        return None
    says = f"{path} is empty or gone, and {lock.name} says that a ledger was begun: what it held is lost"
    todo = f"restore it from a copy; or delete {lock.name} as well, to begin anew without its locks and budgets"
    return failed("ledger's lock", says, todo, Exit.UNAVAILABLE)


def _holder(path: Path, *, held: bool | None) -> Check:
    name = "ledger's lock"
    if held is None:
        says = f"{lock_of(path)} cannot be opened: nobody can say whether a gateway runs"
        return doubtful(name, says, "run as the gateway's user", f"ls -l {lock_of(path)}")
    if held:
        return good(name, "a gateway holds it")
    log = path.with_name(path.name + "-wal")
    if log.is_file() and log.stat().st_size:
        return good(name, f"no gateway holds it, and the last was killed: its next start takes in {_size(log)} of log")
    return good(name, "no gateway holds it; a lock is never left behind")


def _space(path: Path, recent: Recent | None, free: int) -> Check:
    name = "disk space"
    files = (path, path.with_name(path.name + "-wal"))
    taken = sum(file.stat().st_size for file in files if file.is_file())
    says = f"{_bytes(free)} are free beside {path}"
    lasts = None
    if recent is not None and recent.per_second is not None:
        each = taken / recent.total
        lasts = timedelta(seconds=min(free / (each * recent.per_second), timedelta(days=36_500).total_seconds()))
        says += f"; at {recent.per_second:.3g} events a second of {each:.0f} bytes full in {_long(lasts)}"
    todo, command = "make room, or move the ledger (docs/operations.md#moving)", f"df -h {path.parent}"
    if free < TOO_LITTLE:
        return failed(name, f"{says}; what cannot be recorded is not granted", todo, Exit.UNAVAILABLE, command)
    if free < LITTLE or (lasts is not None and lasts < SOON):
        return doubtful(name, f"{says}; what cannot be recorded is not granted", todo, command)
    return good(name, says)


def _time(recent: Recent, now: datetime) -> Check:
    name = "clock and ledger"
    last = recent.events[-1].at
    if last - now > LEEWAY:
        says = f"this clock is {span(last - now)} behind the last record: until it is past that, nothing is granted"
        todo = "set the clock by NTP; if it is right and was ahead, see docs/operations.md#clock"
        return failed(name, says, todo, Exit.UNAVAILABLE, "chronyc tracking")
    return good(name, f"the last record was made {span(now - last)} ago")


def _snapshot(path: Path, reader: SqliteLedgerReader, recent: Recent) -> Check:
    from stepgrant_gateway.core.snapshot import covered_heads
    from stepgrant_gateway.storage.snapshots import SnapshotFiles

    name = "snapshot"
    for data in SnapshotFiles(path).kept():
        try:
            covered = covered_heads(data)
        except SnapshotError:
            continue
        if all(_is_there(reader, head) for head in covered):
            later = recent.total - sum(head.sequence for head in covered)
            return good(name, f"the next start reads {later} records of {recent.total}")
        says = f"{path.name}.snapshot is of another ledger than {path.name}: the next start reads all {recent.total} records"
        todo = "take it away; it costs time only, and is made anew"
        return doubtful(name, says, todo, f"rm {path}.snapshot {path}.snapshot-before")
    return good(name, f"there is none yet: the next start reads all {recent.total} records")


def _is_there(reader: SqliteLedgerReader, head: ChainHead) -> bool:
    found = reader.read(head.instance_id, head.sequence - 1, 1)
    return [(record.sequence, record.hash) for record in found] == [(head.sequence, head.hash)]


def _active_policy(active: str | None, directory: str | None, *, held: bool | None) -> Check:
    name = "active policy"
    if active is None or directory is None:
        return good(name, "the latest records name no policy set" if active is None else f"{active[:19]}")
    if active == directory:
        return good(name, f"{active[:19]} is what the directory holds")
    says = f"the gateway decides by {active[:19]}, and the directory holds {directory[:19]}"
    if held:
        return doubtful(name, says, "have it take what is there", "stepgrant policy reload")
    return good(name, f"{says}, which the next start takes")


def _size(file: Path) -> str:
    return _bytes(file.stat().st_size)


def _bytes(count: int) -> str:
    for size, unit in ((1024**4, "TiB"), (1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def _long(length: timedelta) -> str:
    return f"{length.days // 365} years" if length.days >= 730 else span(length)
