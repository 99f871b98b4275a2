"""INV-09: a child can only narrow: what an inner envelope admits, every envelope around it admits."""

import time
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from stepgrant_gateway.core.delegation import (
    AnyValue,
    AtMost,
    Constraint,
    Envelope,
    Exact,
    OneOf,
    Prefix,
    SubsetOf,
    admits,
    contains,
    violation,
)

texts = st.sampled_from(["", "a", "b", "a/b", "a/b/c", "ab", "/", "/a", "/a/b", "a/../b", ".."])
numbers = st.integers(-3, 3).map(Decimal)
scalars = st.one_of(texts, numbers, st.booleans(), st.none())
values = st.one_of(scalars, st.lists(scalars, max_size=3))
constraints: st.SearchStrategy[Constraint] = st.one_of(
    values.map(Exact),
    st.lists(values, max_size=3).map(lambda items: OneOf(tuple(items))),
    numbers.map(AtMost),
    texts.map(Prefix),
    st.lists(scalars, max_size=3).map(lambda items: SubsetOf(tuple(items))),
    st.just(AnyValue()),
)
tools = st.sampled_from(["a.x", "a.y"])
names = st.sampled_from(["p", "q"])
envelopes = st.dictionaries(tools, st.dictionaries(names, constraints, max_size=2), max_size=2).map(Envelope)
calls = st.tuples(tools, st.dictionaries(names, values, max_size=2))


@given(envelopes, envelopes, calls)
def test_a_contained_envelope_admits_nothing_that_the_outer_one_refuses(outer, inner, call) -> None:
    tool, arguments = call
    if contains(outer, inner) and violation(inner, tool, arguments) is None:
        assert violation(outer, tool, arguments) is None


@given(constraints, constraints, values)
def test_a_contained_constraint_admits_no_value_that_the_outer_one_refuses(outer, inner, value) -> None:
    whole, part = Envelope({"a.x": {"p": outer}}), Envelope({"a.x": {"p": inner}})
    if contains(whole, part) and admits(inner, value):
        assert admits(outer, value)


@given(envelopes, envelopes, envelopes)
def test_containment_is_transitive(first, second, third) -> None:
    if contains(first, second) and contains(second, third):
        for tool in third.tools:
            assert tool in first.tools


@given(envelopes, calls)
def test_what_an_envelope_does_not_name_is_refused(envelope, call) -> None:
    tool, arguments = call
    if tool not in envelope.tools or set(arguments) - set(envelope.tools[tool]):
        assert violation(envelope, tool, arguments) is not None


@given(texts, texts)
def test_a_prefix_ends_at_a_segment(prefix: str, text: str) -> None:
    if admits(Prefix(prefix), text):
        rest = text[len(prefix) :]
        assert text.startswith(prefix)
        assert rest == "" or prefix.endswith("/") or rest.startswith("/")
        assert ".." not in text.split("/")


def test_an_empty_envelope_admits_no_call() -> None:
    assert violation(Envelope({}), "a.x", {}) is not None


def test_long_lists_are_held_against_long_lists_in_linear_time() -> None:
    """At the bounds of the wire, comparing each with each took a minute of everybody's time."""
    allowed = tuple(Decimal(number) for number in range(2000))
    value = [Decimal(number % 2000) for number in range(4000)]
    began = time.process_time()
    assert admits(SubsetOf(allowed), value)
    assert not admits(SubsetOf(allowed), [*value, Decimal(2001)])
    inner, outer = Envelope({"a.b": {"x": OneOf(allowed)}}), Envelope({"a.b": {"x": OneOf((*allowed, "more"))}})
    assert contains(outer, inner)
    assert not contains(inner, outer)
    assert time.process_time() - began < 2
