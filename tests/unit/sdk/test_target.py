"""Targets follow from template and arguments, the same on both sides."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepgrant.errors import ArgumentsInvalidError, InvalidInputError
from stepgrant.target import MAX_TARGET_CHARACTERS, MAX_TEMPLATE_CHARACTERS, fill_target, template_arguments

ORDER = "pg://orders/{order_id}"


def test_a_template_without_arguments_is_its_own_target():
    assert fill_target("mail://out", {"to": []}) == "mail://out"


@pytest.mark.parametrize(
    ("value", "filled"),
    [
        ("ord_1", "pg://orders/ord_1"),
        ("a/b", "pg://orders/a%2Fb"),
        ("*", "pg://orders/%2A"),
        ("%2F", "pg://orders/%252F"),
        ("é", "pg://orders/%C3%A9"),
        ("A-z.0_9~", "pg://orders/A-z.0_9~"),
        ("{order_id}", "pg://orders/%7Border_id%7D"),
        (Decimal(7), "pg://orders/7"),
        (Decimal("-0"), "pg://orders/0"),
        (True, "pg://orders/true"),
    ],
)
def test_values_are_percent_encoded_but_for_unreserved_characters(value, filled):
    assert fill_target(ORDER, {"order_id": value}) == filled


@pytest.mark.parametrize("value", [None, "", ".", "..", Decimal("1.0"), Decimal("1E+2"), [], ["a"], {}])
def test_what_cannot_name_one_thing_is_refused(value):
    with pytest.raises(ArgumentsInvalidError) as refused:
        fill_target(ORDER, {"order_id": value})
    assert refused.value.argument == "order_id"
    assert refused.value.fix


def test_an_absent_argument_is_refused():
    with pytest.raises(ArgumentsInvalidError):
        fill_target(ORDER, {})


def test_a_target_is_bounded_after_encoding():
    fits = "x" * (MAX_TARGET_CHARACTERS - len("pg://orders/"))
    assert len(fill_target(ORDER, {"order_id": fits})) == MAX_TARGET_CHARACTERS
    with pytest.raises(ArgumentsInvalidError):
        fill_target(ORDER, {"order_id": fits + "x"})


def test_template_arguments_are_named_once_and_in_order():
    assert template_arguments("db://{b}/{a}/{b}") == ("b", "a")


@pytest.mark.parametrize("template", ["", "a b", "a*", "{}", "{1a}", "{a", "a}", "{{a}}", "é", "a\n", "{a.b}"])
def test_what_is_no_template_is_refused(template):
    with pytest.raises(InvalidInputError):
        template_arguments(template)


def test_a_template_is_bounded():
    with pytest.raises(InvalidInputError):
        template_arguments("a" * (MAX_TEMPLATE_CHARACTERS + 1))


@given(st.text(min_size=1, max_size=40).filter(lambda text: text not in {".", ".."}))
def test_a_value_never_adds_a_segment_and_two_values_never_share_a_target(value):
    try:
        filled = fill_target(ORDER, {"order_id": value})
    except UnicodeEncodeError:
        pytest.fail("strict values hold no surrogates")
    assert filled.count("/") == 3
    assert filled.isascii()
