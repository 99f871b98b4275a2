"""A start reads what came after the newest snapshot that the chain vouches for, and all of it when there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from stepgrant_gateway.app.folding import Folded, fold_ledger
from stepgrant_gateway.core.decision import LONGEST_MEMORY
from stepgrant_gateway.core.errors import LedgerBrokenError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.history import fold
from stepgrant_gateway.core.ledger import ChainHead, Record
from stepgrant_gateway.core.snapshot import SNAPSHOT_SCHEMA, decode_snapshot, encode_snapshot, snapshot_digest
from stepgrant_gateway.storage.memory import MemoryLedger
from tests.kit.chains import OTHER, THIRD, chain_of, head_of, started
from tests.kit.clock import START
from tests.kit.work import work

WORK = work(300)
FIRST = chain_of(started(), *WORK[:100])
SECOND = chain_of(started([head_of(FIRST)]), *WORK[100:200], instance=OTHER)


def named(snapshot: bytes) -> Event:
    return Event(EventType.LEDGER_SNAPSHOT, START, {"sha256": snapshot_digest(snapshot), "bytes": len(snapshot)})


def snapshot_of(*chains: list[Record]) -> bytes:
    """What a gateway writes that has folded these chains, which hold WORK from its beginning."""
    count = sum(len(chain) - 1 for chain in chains)
    return encode_snapshot([head_of(chain) for chain in chains], fold(WORK[:count]))


SNAPSHOT = snapshot_of(FIRST, SECOND)
TAIL = chain_of(named(SNAPSHOT), *WORK[200:250], after=head_of(SECOND))
THIRD_LIFE = chain_of(started([head_of(TAIL)]), *WORK[250:], instance=THIRD)
LATER = len(TAIL) + len(THIRD_LIFE)
ALL = len(FIRST) + len(SECOND) + LATER


def holding(*chains: Sequence[Record]) -> MemoryLedger:
    """A store of just these records; each chain is stored unchecked, as a file may hold anything."""
    store = MemoryLedger()
    for chain in chains:
        store._chains.setdefault(chain[0].instance_id, []).extend(chain)
    return store


WHOLE = holding(FIRST, SECOND, TAIL, THIRD_LIFE)


def is_everything(folded: Folded, store: MemoryLedger = WHOLE) -> bool:
    return folded == fold_ledger(store) and folded.followed == ALL


def test_only_what_came_after_the_snapshot_is_read() -> None:
    reading = CountedReads(WHOLE)
    folded = fold_ledger(reading, [SNAPSHOT])
    assert folded.followed == LATER
    assert reading.records < LATER + 10
    assert folded.history == fold(WORK)
    assert folded.history == fold_ledger(WHOLE).history
    assert folded.heads == tuple(WHOLE.heads())


class CountedReads:
    """A store that counts the records that are read of it."""

    def __init__(self, inner: MemoryLedger) -> None:
        self._inner = inner
        self.records = 0

    def heads(self) -> Sequence[ChainHead]:
        return self._inner.heads()

    def read(self, instance_id: str, after: int, limit: int) -> Sequence[Record]:
        found = self._inner.read(instance_id, after, limit)
        self.records += len(found)
        return found


@pytest.mark.parametrize("snapshot", [False, True])
def test_ck_01_a_clock_that_was_ahead_makes_no_label_old(*, snapshot: bool) -> None:
    """Neither what is folded at start nor a snapshot that was made meanwhile launders a label."""
    ahead = Event(EventType.IDENTITY_DENIED, WORK[-1].at + 2 * LONGEST_MEMORY, {})
    chain = chain_of(started(), *WORK, ahead)
    made = encode_snapshot([head_of(chain)], fold([*WORK, ahead]))
    store = holding(chain_of(started(), *WORK, ahead, named(made)))
    now = WORK[-1].at + timedelta(hours=1)
    assert not decode_snapshot(made).labels.workloads
    assert fold_ledger(store, [made] if snapshot else [], now).history.labels == fold(WORK).labels


def changed_lock() -> bytes:
    history = decode_snapshot(SNAPSHOT)
    history.locks.popitem()
    return encode_snapshot([head_of(FIRST), head_of(SECOND)], history)


def test_st_04_a_snapshot_with_a_lock_taken_out_is_not_believed(caplog: pytest.LogCaptureFixture) -> None:
    assert is_everything(fold_ledger(WHOLE, [changed_lock()]))
    assert "no record names its digest" in caplog.text


def test_st_04_a_snapshot_whose_record_is_not_in_the_chain_is_not_believed(caplog: pytest.LogCaptureFixture) -> None:
    unnamed = chain_of(*WORK[200:250], after=head_of(SECOND))
    store = holding(FIRST, SECOND, unnamed)
    folded = fold_ledger(store, [SNAPSHOT])
    assert folded == fold_ledger(store)
    assert "no record names its digest" in caplog.text


def test_st_04_a_record_that_names_a_snapshot_counts_only_after_what_it_covers() -> None:
    """Whoever may record something cannot vouch for the past with it: the digest covers the place, so none can be known before."""
    early = chain_of(started(), named(SNAPSHOT), *WORK[:100])
    store = holding(early, chain_of(started([head_of(early)]), *WORK[100:200], instance=OTHER))
    assert fold_ledger(store, [SNAPSHOT]) == fold_ledger(store)


def replaced_first() -> list[Record]:
    """FIRST, with other events in place of its locks."""
    other = Event(EventType.IDENTITY_DENIED, START, {})
    return chain_of(started(), *(other if event.type is EventType.LOCK_SET else event for event in WORK[:100]))


def test_st_04_a_chain_that_was_replaced_behind_the_snapshot_is_not_covered_by_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = replaced_first()
    second = chain_of(started([head_of(other)]), *WORK[100:200], instance=OTHER)
    store = holding(other, second, chain_of(named(SNAPSHOT), after=head_of(second)))
    folded = fold_ledger(store, [SNAPSHOT])
    assert folded == fold_ledger(store)
    assert "is not the one that it covers" in caplog.text


def test_inv_14_a_chain_replaced_behind_the_snapshot_but_not_in_later_chains_breaks_the_ledger() -> None:
    """Also with a snapshot that fits it: what a later chain remembers of it is held against its records."""
    snapshot = encode_snapshot([head_of(replaced_first()), head_of(SECOND)], fold(WORK[:200]))
    store = holding(replaced_first(), SECOND, chain_of(named(snapshot), after=head_of(SECOND)))
    with pytest.raises(LedgerBrokenError, match="remembers"):
        fold_ledger(store, [snapshot])


def test_inv_14_the_record_that_a_snapshot_covers_last_is_held_against_its_bytes() -> None:
    """The hash alone would be what whoever changed the record left in its place."""
    tampered = [*SECOND[:-1], replace(SECOND[-1], body=SECOND[-1].body + b" ")]
    with pytest.raises(LedgerBrokenError):
        fold_ledger(holding(FIRST, tampered, TAIL, THIRD_LIFE), [SNAPSHOT])


def test_inv_14_what_came_after_the_snapshot_is_verified() -> None:
    tampered = [*TAIL[:20], replace(TAIL[20], body=TAIL[20].body + b" "), *TAIL[21:]]
    with pytest.raises(LedgerBrokenError):
        fold_ledger(holding(FIRST, SECOND, tampered, THIRD_LIFE), [SNAPSHOT])


def test_inv_14_a_cut_behind_the_snapshot_is_seen_by_what_later_chains_remember() -> None:
    with pytest.raises(LedgerBrokenError, match="remembers"):
        fold_ledger(holding(FIRST, SECOND, TAIL[:30], THIRD_LIFE), [SNAPSHOT])


def test_a_chain_put_between_those_that_a_snapshot_covers_is_folded() -> None:
    between = chain_of(started(), *work(50, seed=7), instance=THIRD)
    store = holding(FIRST, between, SECOND, TAIL)
    assert fold_ledger(store, [SNAPSHOT]) == fold_ledger(store)


NEXT_SCHEMA = SNAPSHOT.replace(b'"snapshot":%d' % SNAPSHOT_SCHEMA, b'"snapshot":%d' % (SNAPSHOT_SCHEMA + 1))


@pytest.mark.parametrize("broken", [b"", b"\0" * 100, SNAPSHOT[: len(SNAPSHOT) // 2], NEXT_SCHEMA])
def test_st_04_what_is_broken_or_of_another_version_falls_back_to_the_one_before_and_then_to_all(
    broken: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert fold_ledger(WHOLE, [broken, SNAPSHOT]).followed == LATER
    assert "not believed" in caplog.text
    assert is_everything(fold_ledger(WHOLE, [broken]))


def test_a_snapshot_that_the_chain_names_and_nobody_can_read_is_not_believed() -> None:
    odd = SNAPSHOT + b'["of a later version"]\n'
    store = holding(FIRST, SECOND, chain_of(named(odd), after=head_of(SECOND)))
    assert fold_ledger(store, [odd]) == fold_ledger(store)


def test_time_of_the_last_event_is_kept_by_a_snapshot() -> None:
    """CK-01: a clock behind the last event stops minting, also when that lies before the snapshot."""
    late = Event(EventType.KEY_ACTIVATED, START + timedelta(days=400), {})
    first = chain_of(started(), late)
    snapshot = encode_snapshot([head_of(first)], fold([late]))
    store = holding(first, chain_of(named(snapshot), after=head_of(first)))
    assert fold_ledger(store, [snapshot]).history.latest == late.at
