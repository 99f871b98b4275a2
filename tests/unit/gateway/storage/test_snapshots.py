"""Snapshots beside the ledger: the newest and the one before, for their owner alone, whole at every moment."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from stepgrant_gateway.storage.snapshots import SnapshotFiles


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def test_the_newest_two_are_kept_for_their_owner_alone(ledger):
    files = SnapshotFiles(ledger)
    assert list(files.kept()) == []
    for number in range(3):
        files.keep(b"%d" % number)
    assert list(SnapshotFiles(ledger).kept()) == [b"2", b"1"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in ledger.parent.iterdir()} == {0o600}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_whenever_writing_one_fails_what_was_there_is_there(ledger, call, monkeypatch):
    files = SnapshotFiles(ledger)
    files.keep(b"old")
    files.keep(b"new")

    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os if call == "fsync" else Path, call, fails)
    with pytest.raises(OSError, match="Input/output"):
        files.keep(b"newer")
    monkeypatch.undo()
    assert list(files.kept()) == [b"new", b"old"]
    files.keep(b"newest")
    assert list(files.kept()) == [b"newest", b"new"]


def test_what_a_gateway_that_died_between_two_renamings_leaves_is_used(ledger):
    files = SnapshotFiles(ledger)
    files.keep(b"old")
    ledger.with_name("ledger.db.snapshot").rename(ledger.with_name("ledger.db.snapshot-before"))
    assert list(files.kept()) == [b"old"]
    files.keep(b"new")
    assert list(files.kept()) == [b"new", b"old"]


def test_what_others_could_have_written_is_left_out(ledger, caplog):
    files = SnapshotFiles(ledger)
    files.keep(b"old")
    files.keep(b"new")
    ledger.with_name("ledger.db.snapshot").chmod(0o620)
    assert list(files.kept()) == [b"old"]
    assert "its owner alone" in caplog.text


def test_a_link_in_place_of_a_snapshot_is_not_followed(ledger, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"x")
    (tmp_path / "elsewhere").chmod(0o600)
    ledger.with_name("ledger.db.snapshot").symlink_to(tmp_path / "elsewhere")
    assert list(SnapshotFiles(ledger).kept()) == []
