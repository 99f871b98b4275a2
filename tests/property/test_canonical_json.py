"""INV-08: one value, one digest: canonical JSON and strict parsing."""

import contextlib
import json
import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepgrant.errors import ArgumentsInvalidError
from stepgrant.intent import MAX_DEPTH, MAX_SAFE_INTEGER, canonical, digest, from_python, is_integer, parse_object

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalar = st.one_of(
    st.none(),
    st.booleans(),
    text,
    st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER),
    st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15).filter(
        lambda v: v == 0 or abs(v) > 1e-9
    ),
)
tree = st.recursive(
    scalar,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(text, inner, max_size=4)),
    max_leaves=12,
)
documents = st.dictionaries(text, tree, max_size=4)


def shuffled(value):
    """The same value, members in the opposite order."""
    if isinstance(value, dict):
        return {name: shuffled(value[name]) for name in reversed(list(value))}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(documents)
def test_what_is_canonical_parses_to_itself(document) -> None:
    first = canonical(from_python(document))
    assert canonical(parse_object(first.decode())) == first


@given(documents)
def test_order_of_members_white_space_and_escapes_do_not_change_the_digest(document) -> None:
    plain = digest(parse_object(json.dumps(document)))
    assert digest(parse_object(json.dumps(shuffled(document), indent=2, ensure_ascii=False))) == plain


@given(documents, documents)
def test_different_values_have_different_digests(left, right) -> None:
    same = from_python(left) == from_python(right)
    booleans = json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
    if digest(from_python(left)) == digest(from_python(right)):
        assert same or booleans
    elif booleans:
        raise AssertionError("one value, two digests")


@given(st.text(max_size=40))
def test_any_text_is_an_object_or_a_refusal(text_) -> None:
    with contextlib.suppress(ArgumentsInvalidError):
        assert isinstance(parse_object(text_), dict)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ('{"a":1,"a":1}', "twice"),
        ('{"x":{"a":1,"\\u0061":2}}', "twice"),
        ('{"a":NaN}', "NaN"),
        ('{"a":-Infinity}', "Infinity"),
        ('{"a":9007199254740992}', "2^53-1"),
        ('{"a":1e400}', "2^53-1"),
        ('{"a":100.00000000000000001}', "double"),
        ('{"a":1e-400}', "double"),
        ('{"a":"\\ud800"}', "surrogate"),
        ('{"\\udc00":1}', "surrogate"),
        ("[]", "not a JSON object"),
        ("{} {}", "not JSON"),
        ('{"a":01}', "not JSON"),
        ('{"a":' + "[" * 20 + "]" * 20 + "}", "deeper"),
        ('{"a":"' + "x" * 70_000 + '"}', "bytes"),
        ('{"a":[' + ",".join("1" * 1 for _ in range(5000)) + "]}", "more than 4096 values"),
        ('{"a":0.' + "1" * 40 + "}", "characters"),
    ],
)
def test_what_has_two_readings_or_no_bound_is_refused(document: str, says: str) -> None:
    with pytest.raises(ArgumentsInvalidError, match=says.replace("^", r"\^")):
        parse_object(document)


def test_a_refusal_names_what_was_read_and_nothing_that_was_read_before():
    for what in ("arguments", "parameters", "value"):
        with pytest.raises(ArgumentsInvalidError, match=f"^{what}: a number beyond"):
            parse_object('{"a":9007199254740992}', what=what)


@pytest.mark.parametrize("count", [4095, 4096])
@pytest.mark.parametrize("value", ["1", '""', "{}", "[]"])
def test_as_many_values_are_taken_as_the_bound_says(count: int, value: str):
    # The object, its one name and the array count as well.
    text = '{"a":[' + ",".join([value] * (count - 3)) + "]}"
    parse_object(text)
    with pytest.raises(ArgumentsInvalidError, match="more than 4096 values"):
        parse_object(text.removesuffix("]}") + f",{value}" * (4097 - count) + "]}")


@pytest.mark.parametrize("token", ["0", "7", "999999999999999", "1000000000000000", "9007199254740991"])
def test_an_integer_is_read_as_it_stands(token: str):
    assert str(parse_object('{"a":' + token + "}")["a"]) == token


@pytest.mark.parametrize(
    ("token", "integer"), [("1", True), ("-0", True), ("1.0", False), ("1e2", False), ("0.1", False)]
)
def test_an_integer_is_written_without_fraction_and_exponent(token: str, integer: bool) -> None:
    number = parse_object('{"a":' + token + "}")["a"]
    assert isinstance(number, Decimal)
    assert is_integer(number) is integer


def test_numbers_of_one_value_have_one_digest() -> None:
    assert digest(parse_object('{"a":1e2}')) == digest(parse_object('{"a":100}')) == digest(parse_object('{"a":100.0}'))


def test_a_string_that_never_ends_is_refused_in_linear_time() -> None:
    """One Declare of 64 KiB must not hold up everybody else; in quadratic time this took 20 s."""
    began = time.process_time()
    with pytest.raises(ArgumentsInvalidError, match="not JSON"):
        # Brackets enough for strings to be looked at.
        parse_object('["' + "[" * (MAX_DEPTH + 2) + '", "' + '\\"' * 32_000)
    assert time.process_time() - began < 2
