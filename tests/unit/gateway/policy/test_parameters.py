"""Parameters of task types are declared with their types and hold normal forms."""

from decimal import Decimal

import pytest

from stepgrant.errors import ArgumentsInvalidError
from stepgrant_gateway.core.errors import PolicyRefusedError
from stepgrant_gateway.policy.parameters import MAX_PARAMETERS, normalised_parameters, read_parameters
from stepgrant_gateway.policy.yaml_reader import read_yaml
from tests.kit.catalogs import strict


def declared(text):
    return read_parameters(read_yaml("a.yaml", text.encode()), "the parameters")


def given(text, values):
    return normalised_parameters(declared(text)[0], strict(values))


def test_values_with_a_format_are_normalised():
    text = "a: {type: string, format: email}\nb: {type: array, items: {type: string, format: hostname}}"
    assert given(text, {"a": "Jo@X.org", "b": ["A.org"]}) == {"a": "Jo@x.org", "b": ["a.org"]}


def test_sensitive_and_optional_are_said_by_parameter():
    shape, sensitive = declared("a: {type: string, sensitive: true}\nb: {type: integer, optional: true}")
    assert sensitive == {"a"}
    assert shape.fields["a"].required
    assert not shape.fields["b"].required


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ('a: {type: string, pattern: "ord_[0-9]{2}"}', "ord_42", ["xord_42", "ord_421", "ord_42\n"]),
        ("a: {type: string, min_length: 1, max_length: 2}", "ab", ["", "abc"]),
        ("a: {type: string, enum: [x, y]}", "x", ["z", "X"]),
        ("a: {type: string, format: email}", "jo@x.org", ["jo"]),
        ("a: {type: integer, minimum: 1, maximum: 9}", 9, [0, 10, 1.5, "1"]),
        ("a: {type: number}", Decimal("0.0001"), [0.00001, "1", None]),
        ("a: {type: boolean}", True, ["true", 1]),
        (
            "a: {type: array, items: {type: integer}, min_items: 1, max_items: 2, unique: true}",
            [1],
            [[], [1, 1], [1, 2, 3]],
        ),
    ],
)
def test_values_are_held_to_their_declaration(text, good, bad):
    assert given(text, {"a": good}) == strict({"a": good})
    for value in bad:
        with pytest.raises(ArgumentsInvalidError) as refused:
            given(text, {"a": value})
        assert refused.value.argument.startswith("a")


def test_an_undeclared_parameter_and_a_missing_one_are_refused():
    for values in ({"a": "x", "b": "y"}, {}):
        with pytest.raises(ArgumentsInvalidError):
            given("a: {type: string}", values)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: {}", "a.yaml:1: `a` lacks `type`"),
        ("a: {type: strin}", "Did you mean string?"),
        ("a: {type: string, patern: x}", "no key `patern` Did you mean pattern?"),
        ("a: {type: integer, pattern: x}", "no key `pattern`"),
        ("a: {type: string, optional: 1}", "`optional` of `a` is a number"),
        ('a: {type: string, pattern: "("}', "not RE2"),
        ("a: {type: string, format: mail}", "Did you mean email?"),
        ("a: {type: string, enum: []}", "`enum` of `a` is empty"),
        ("a: {type: string, enum: [[x]]}", "plain values only"),
        ("a: {type: array}", "lacks `items`"),
        ("a: {type: array, items: {}}", "lacks `type`"),
        ("a: {type: array, items: {type: array}}", "is none of string"),
        ("a-b: {type: string}", "is not a name"),
        ("é: {type: string}", "is not a name"),
        ("ab: {type: string}\naB: {type: string}", "a.yaml:2: `aB` and `ab` in the parameters differ in case only"),
        ("\n".join(f"a{n}: {{type: string}}" for n in range(MAX_PARAMETERS + 1)), "more than"),
    ],
)
def test_a_declaration_that_is_none_is_refused_with_its_line(text, says):
    with pytest.raises(PolicyRefusedError) as caught:
        declared(text)
    assert says in str(caught.value)
