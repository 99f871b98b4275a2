"""JSON text from an encoder that is made once: the same as the standard one writes."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepgrant.json_text import json_writer

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES, st.booleans(), st.booleans())
def test_the_text_is_that_of_the_standard_encoder(value: object, sort_keys: bool, ensure_ascii: bool) -> None:
    write = json_writer(sort_keys=sort_keys, ensure_ascii=ensure_ascii)
    expected = json.dumps(value, sort_keys=sort_keys, ensure_ascii=ensure_ascii, separators=(",", ":"))
    assert [write(value), write(value)] == [expected, expected]


def test_what_the_encoder_does_not_know_goes_through_default() -> None:
    assert json_writer(default=int)([Decimal(7)]) == "[7]"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), Decimal(1), {1, 2}])
def test_what_json_cannot_carry_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        json_writer()([value])


def test_a_value_that_holds_itself_is_refused() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(RecursionError):
        json_writer()(value)


def test_without_the_c_encoder_the_text_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("json.encoder.c_make_encoder", None)
    assert json_writer(sort_keys=True)({"b": 1.5, "a": "é"}) == '{"a":"\\u00e9","b":1.5}'
