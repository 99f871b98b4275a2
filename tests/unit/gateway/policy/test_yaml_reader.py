"""YAML has one reading or is refused, and every value knows its line."""

from datetime import timedelta
from decimal import Decimal

import pytest

from stepgrant_gateway.core.errors import PolicyRefusedError
from stepgrant_gateway.policy.yaml_reader import MAX_YAML_BYTES, MAX_YAML_DEPTH, MAX_YAML_NODES, read_yaml


def read(text):
    return read_yaml("a.yaml", text.encode())


def refusal(text):
    with pytest.raises(PolicyRefusedError) as caught:
        read(text)
    return str(caught.value.findings[0])


def test_values_are_plain_and_know_their_line():
    root = read('a: 1\nb: [x, "1"]\nc:\n  d: true\n  e:\n  f: -0.50\n')
    entries = root.entries("root", most=9)
    assert entries["a"].data == Decimal(1)
    assert [item.data for item in entries["b"].data] == ["x", "1"]
    inner = entries["c"].entries("c", most=9)
    assert inner["d"].data is True
    assert inner["e"].data is None
    assert inner["f"].data == Decimal("-0.50")
    assert inner["f"].line == 6
    assert root.key_lines == {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\na: 2\n", "a.yaml:2: `a` stands here and on line 1"),
        ("a: &x 1\n", "a.yaml:1: anchors"),
        ("a: 1\nb: *x\n", "a.yaml:2: anchors"),
        ("a: !!str 1\n", "a.yaml:1: tags"),
        ("a: !!python/object/apply:os.system [ls]\n", "a.yaml:1: tags"),
        ("x: {<<: {a: 1}}\n", "a.yaml:1: a key that is no text"),
        ("1: a\n", "a.yaml:1: a key that is no text"),
        ("? [a]\n: b\n", "a.yaml:1: a key that is no text"),
        ("a: yes\n", "more than one reading"),
        ("a: 2024-01-01\n", "more than one reading"),
        ("a: 0x10\n", "plain decimal"),
        ("a: 010\n", "plain decimal"),
        ("a: 1_000\n", "plain decimal"),
        ("a: 1:30\n", "plain decimal"),
        ("a: .inf\n", "plain decimal"),
        ("a: +1\n", "plain decimal"),
        ("a: 1\n---\nb: 2\n", "a.yaml:2: a second document"),
        ("", "the file is empty"),
        ("a: [1\n", "a.yaml:2: not YAML"),
        ("a: \x00\n", "not YAML"),
        ("[" * (MAX_YAML_DEPTH + 1) + "]" * (MAX_YAML_DEPTH + 1), "levels"),
        ("[" * 5000, "levels"),
        ("- 1\n" * (MAX_YAML_NODES + 1), "values"),
        ("#" * (MAX_YAML_BYTES + 1), "bytes"),
    ],
)
def test_what_has_two_readings_or_no_bound_is_refused_with_its_line(text, says):
    assert says in refusal(text)


def test_bytes_that_are_not_utf8_are_refused():
    with pytest.raises(PolicyRefusedError, match="UTF-8"):
        read_yaml("a.yaml", b"a: \xff")


def test_an_unknown_key_is_refused_at_its_line_with_the_nearest_name():
    root = read("effects: 1\nteir: 2\n")
    with pytest.raises(PolicyRefusedError) as caught:
        root.section("the tool", optional=("effects", "tier"))
    assert str(caught.value.findings[0]) == "a.yaml:2: the tool has no key `teir` Did you mean tier?"


def test_a_missing_key_is_refused():
    with pytest.raises(PolicyRefusedError, match="lacks `b`"):
        read("a: 1").section("the tool", required=("a", "b"))


@pytest.mark.parametrize(
    ("method", "good", "value", "bad"),
    [
        ("text", "a: x", "x", ["a: 1", "a: ''", "a: []", "a:"]),
        ("boolean", "a: false", False, ["a: 'false'", "a: 0"]),
        ("number", "a: 1.5", Decimal("1.5"), ["a: '1'", "a: true"]),
        ("duration", "a: 15m", timedelta(minutes=15), ["a: 15", "a: 15x"]),
    ],
)
def test_values_are_of_the_kind_that_is_asked_for(method, good, value, bad):
    assert getattr(read(good).entries("root", most=1)["a"], method)("`a`") == value
    for text in bad:
        with pytest.raises(PolicyRefusedError, match="`a`"):
            getattr(read(text).entries("root", most=1)["a"], method)("`a`")


def test_counts_choices_and_lists_are_bounded():
    entries = read("n: 3\nc: one\nl: [1, 2]\n").entries("root", most=3)
    assert entries["n"].count("`n`", least=1, most=3) == 3
    assert entries["c"].choice("`c`", ("one", "two")) == "one"
    assert len(entries["l"].items("`l`", most=2)) == 2
    with pytest.raises(PolicyRefusedError):
        entries["n"].count("`n`", least=1, most=2)
    with pytest.raises(PolicyRefusedError, match="Did you mean once"):
        entries["c"].choice("`c`", ("once", "two"))
    with pytest.raises(PolicyRefusedError, match="more than 1"):
        entries["l"].items("`l`", most=1)
    with pytest.raises(PolicyRefusedError, match="more than 1"):
        read("a: 1\nb: 2").entries("root", most=1)
