"""A fold written down and read back is the same fold; what is none is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepgrant_gateway.core.errors import SnapshotError
from stepgrant_gateway.core.history import History, fold
from stepgrant_gateway.core.snapshot import SNAPSHOT_SCHEMA, covered_heads, decode_snapshot, encode_snapshot
from tests.kit.chains import chain_of, head_of
from tests.kit.work import work

EVENTS = work(400)
HEADS = [head_of(chain_of(*EVENTS))]


@given(st.integers(min_value=0, max_value=len(EVENTS)))
def test_a_fold_goes_on_from_a_snapshot_as_if_it_had_never_stopped(cut: int) -> None:
    history = decode_snapshot(encode_snapshot(HEADS, fold(EVENTS[:cut])))
    for event in EVENTS[cut:]:
        history.follow(event)
    history.tidy()
    whole = fold(EVENTS)
    assert history == whole
    assert encode_snapshot(HEADS, history) == encode_snapshot(HEADS, whole)
    assert whole.locks
    assert any("#" in owner for _, owner in whole.spent)
    assert whole.labels.instances
    assert whole.logouts.known
    assert whole.open_tasks
    assert whole.live_steps
    assert {one.state.value for one in whole.assignments.values()} == {"open", "taken"}


def test_a_snapshot_says_which_records_it_covers() -> None:
    assert covered_heads(encode_snapshot(HEADS, History())) == tuple(HEADS)
    assert covered_heads(encode_snapshot([], History())) == ()


def header(**changed: object) -> bytes:
    first = json.loads(encode_snapshot(HEADS, History()))
    return json.dumps({**first, **changed}).encode() + b"\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\n",
        b"[]\n",
        b"[" * 100_000,
        header(snapshot=SNAPSHOT_SCHEMA - 1),
        header(snapshot=SNAPSHOT_SCHEMA + 1),
        header(more=1),
        header(heads={}),
        header(heads=[["no ulid", 1, "0" * 64]]),
        header(heads=[[HEADS[0].instance_id, 0, "0" * 64]]),
        header(heads=[[HEADS[0].instance_id, 2**60, "0" * 64]]),
        header(heads=[[HEADS[0].instance_id, 1, "0" * 63]]),
        header(heads=[[HEADS[0].instance_id, "1", "0" * 64]]),
    ],
)
def test_what_is_no_snapshot_of_this_schema_is_refused(data: bytes) -> None:
    with pytest.raises(SnapshotError):
        covered_heads(data)


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b'["unknown"]',
        b'["lock","id",{},"r",1,"by"]',
        b'["lock","id",{"tool":"a.*","more":1},"r",1,"by"]',
        b'["spent","b","w",1,1,"much"]',
        b'["spent","b","w",1,1e99,"1"]',
        b'["labels","w","zz",{}]',
        b'["task","t","w","zz",[]]',
        b'["step","t","s","g",1,"late",{}]',
    ],
)
def test_a_line_that_cannot_be_read_refuses_the_whole(line: bytes) -> None:
    with pytest.raises(SnapshotError):
        decode_snapshot(encode_snapshot(HEADS, History()) + line + b"\n")
