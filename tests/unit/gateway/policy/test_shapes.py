"""What policy sees of a shape, and what it may find absent."""

from dataclasses import replace
from decimal import Decimal

from stepgrant_gateway.policy.shapes import Field, Kind, Shape, opened

TEXT = Shape(Kind.STRING)


def test_policy_sees_what_cedar_can_hold():
    assert TEXT.seen
    assert Shape(Kind.ARRAY, items=TEXT).seen
    assert not Shape(Kind.STRING, hidden=True).seen
    assert not Shape(Kind.UNION).seen
    assert not Shape(Kind.ANY).seen
    assert not Shape(Kind.ARRAY).seen
    assert not Shape(Kind.ARRAY, items=Shape(Kind.STRING, nullable=True)).seen
    assert not Shape(Kind.ARRAY, items=Shape(Kind.UNION)).seen


def test_what_is_seen_follows_a_shape_that_is_made_of_another():
    assert not replace(TEXT, hidden=True).seen
    assert not replace(Shape(Kind.ARRAY, items=TEXT), items=None).seen
    assert replace(Shape(Kind.ANY), kind=Kind.BOOLEAN).seen


def test_a_member_is_optional_when_policy_may_find_it_absent():
    assert Field(TEXT).optional
    assert not Field(TEXT, required=True).optional
    assert not Field(Shape(Kind.INTEGER), default=Decimal(1)).optional
    assert Field(Shape(Kind.STRING, nullable=True), required=True).optional


def test_opening_a_shape_opens_every_depth():
    inner = Shape(Kind.OBJECT)
    outer = Shape(Kind.OBJECT, fields={"a": Field(Shape(Kind.ARRAY, items=inner))}, alternatives=(inner,))
    shape = opened(outer)
    items = shape.fields["a"].shape.items
    assert items is not None
    assert shape.free_form
    assert items.free_form
    assert shape.alternatives[0].free_form
