"""gRPC messages as calls: every field by its original name, nothing lost and nothing added."""

from decimal import Decimal

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from stepgrant.calls import GrpcCalls
from stepgrant.errors import GrantRefusedError, MisuseError, RefusalCode

METHOD = "/orders.Orders/Refund"
CALLS = GrpcCalls({METHOD: "orders.refund"})
_F = descriptor_pb2.FieldDescriptorProto


def _messages():
    """A message with one field of each kind, built here so that no generated file is needed."""
    file = descriptor_pb2.FileDescriptorProto(name="calls_test.proto", package="calls_test", syntax="proto3")
    enum = file.enum_type.add(name="Mode")
    enum.value.add(name="MODE_UNSPECIFIED", number=0)
    enum.value.add(name="MODE_FAST", number=1)
    part = file.message_type.add(name="Part")
    part.field.add(name="part", number=1, type=_F.TYPE_MESSAGE, type_name=".calls_test.Part", label=_F.LABEL_OPTIONAL)
    part.field.add(name="name", number=2, type=_F.TYPE_STRING, label=_F.LABEL_OPTIONAL)
    whole = file.message_type.add(name="Whole")
    entry = whole.nested_type.add(name="CountsEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=_F.TYPE_BOOL, label=_F.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=_F.TYPE_INT64, label=_F.LABEL_OPTIONAL)
    plain = [
        ("order_id", _F.TYPE_STRING),
        ("big_number", _F.TYPE_INT64),
        ("amount", _F.TYPE_DOUBLE),
        ("small", _F.TYPE_FLOAT),
        ("yes", _F.TYPE_BOOL),
        ("raw", _F.TYPE_BYTES),
    ]
    for number, (name, kind) in enumerate(plain, 1):
        whole.field.add(name=name, number=number, type=kind, label=_F.LABEL_OPTIONAL)
    whole.field.add(name="mode", number=7, type=_F.TYPE_ENUM, type_name=".calls_test.Mode", label=_F.LABEL_OPTIONAL)
    whole.field.add(name="part", number=8, type=_F.TYPE_MESSAGE, type_name=".calls_test.Part", label=_F.LABEL_OPTIONAL)
    whole.field.add(name="tags", number=9, type=_F.TYPE_STRING, label=_F.LABEL_REPEATED)
    counts = ".calls_test.Whole.CountsEntry"
    whole.field.add(name="counts", number=10, type=_F.TYPE_MESSAGE, type_name=counts, label=_F.LABEL_REPEATED)
    whole.oneof_decl.add(name="_note")
    note = whole.field.add(name="note", number=11, type=_F.TYPE_STRING, label=_F.LABEL_OPTIONAL, oneof_index=0)
    note.proto3_optional = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made = message_factory.GetMessageClassesForFiles(["calls_test.proto"], pool)
    return made["calls_test.Whole"], made["calls_test.Part"]


Whole, Part = _messages()


def read(message) -> dict:
    return CALLS.read(METHOD, message).arguments


def malformed(message) -> str:
    with pytest.raises(GrantRefusedError) as caught:
        CALLS.read(METHOD, message)
    assert caught.value.refusal.code is RefusalCode.CALL_MALFORMED
    return caught.value.refusal.reason


def test_fields_without_presence_are_always_in_and_absent_ones_left_out():
    assert read(Whole()) == {
        "order_id": "",
        "big_number": Decimal(0),
        "amount": Decimal(0),
        "small": Decimal(0),
        "yes": False,
        "raw": "",
        "mode": "MODE_UNSPECIFIED",
        "tags": [],
        "counts": {},
    }


def test_every_kind_of_field_has_its_one_form():
    message = Whole(
        order_id="ord_1",
        big_number=2**53 - 1,
        amount=98.7,
        small=0.5,
        yes=True,
        raw=b"\xfb\xff",
        mode=1,
        part=Part(name="x", part=Part()),
        tags=["b", "a"],
        counts={True: 1, False: 2},
        note="",
    )
    assert CALLS.read(METHOD, message).tool == "orders.refund"
    assert read(message) == {
        "order_id": "ord_1",
        "big_number": Decimal(2**53 - 1),
        "amount": Decimal("98.7"),
        "small": Decimal("0.5"),
        "yes": True,
        "raw": "-_8",
        "mode": "MODE_FAST",
        "part": {"name": "x", "part": {"name": ""}},
        "tags": ["b", "a"],
        "counts": {"true": Decimal(1), "false": Decimal(2)},
        "note": "",
    }


@pytest.mark.parametrize(
    "message",
    [
        Whole(big_number=2**53),
        Whole(amount=float("nan")),
        Whole(amount=float("inf")),
        Whole(mode=7),
        Whole.FromString(b"\xa2\x06\x01x"),
        Whole(part=Part.FromString(b"\xa2\x06\x01x")),
        Whole(order_id="a" * 65536),
        Whole(tags=["a"] * 4097),
    ],
    ids=["integer", "nan", "infinity", "enum", "unknown field", "unknown field inside", "large", "many values"],
)
def test_what_json_cannot_carry_or_nobody_knows_is_refused(message):
    assert "ord" not in malformed(message)


def test_a_message_that_nests_too_deep_is_refused():
    part = Part()
    for _ in range(16):
        part = Part(part=part)
    assert "deeper" in malformed(Whole(part=part))


def test_a_method_that_is_not_registered_is_refused():
    with pytest.raises(GrantRefusedError) as caught:
        CALLS.read("/orders.Orders/Delete", Whole())
    assert caught.value.refusal.code is RefusalCode.UNREGISTERED_CALL
    assert METHOD in CALLS
    assert "/orders.Orders/refund" not in CALLS


@pytest.mark.parametrize(("method", "tool"), [("orders.Orders/Refund", "a.b"), ("/a/b/c", "a.b"), (METHOD, "refund")])
def test_a_registration_that_is_none_is_misuse(method, tool):
    with pytest.raises(MisuseError):
        GrpcCalls({method: tool})
