"""INV-11: a message that carries what this revision does not know is refused, at every depth."""

from __future__ import annotations

import pytest

from stepgrant._wire_strict import refuse_unknown
from stepgrant.errors import ProtocolError
from stepgrant.v1 import agent_pb2, types_pb2, verifier_pb2

UNKNOWN_FIELD_99 = b"\x98\x06\x01"


def granted() -> agent_pb2.GatewayMessage:
    return agent_pb2.GatewayMessage(
        reply_to=1, granted=agent_pb2.Granted(step_id="x", binding=agent_pb2.BINDING_MTLS, policies=["a"])
    )


def test_a_message_of_this_revision_passes():
    refuse_unknown(granted())


def test_an_unknown_field_is_refused_at_the_top():
    message = agent_pb2.GatewayMessage.FromString(granted().SerializeToString() + UNKNOWN_FIELD_99)
    with pytest.raises(ProtocolError, match="GatewayMessage carries field 99"):
        refuse_unknown(message)


def test_an_unknown_field_is_refused_in_a_nested_message():
    message = granted()
    message.granted.MergeFromString(UNKNOWN_FIELD_99)
    with pytest.raises(ProtocolError, match=r"GatewayMessage\.granted carries field 99"):
        refuse_unknown(message)


def test_an_unknown_field_is_refused_in_a_repeated_message():
    opened = agent_pb2.Opened(tools=[agent_pb2.ToolOffer(tool="a.b", binding=agent_pb2.BINDING_KEY)])
    opened.tools.add(tool="a.c", binding=agent_pb2.BINDING_KEY).MergeFromString(UNKNOWN_FIELD_99)
    with pytest.raises(ProtocolError, match=r"Opened\.tools\[1\] carries field 99"):
        refuse_unknown(opened)


def test_a_oneof_without_a_member_is_refused():
    with pytest.raises(ProtocolError, match=r"AgentMessage\.message has no member set"):
        refuse_unknown(agent_pb2.AgentMessage(request=1))


def test_a_nested_oneof_without_a_member_is_refused():
    declare = agent_pb2.Declare()
    declare.envelope.tools.add(tool="a.b").arguments.add(argument="x")
    with pytest.raises(ProtocolError, match=r"envelope\.tools\[0\]\.arguments\[0\]\.kind has no member"):
        refuse_unknown(declare)


@pytest.mark.parametrize("value", [0, 7, -1])
def test_an_enum_value_that_is_unspecified_or_unknown_is_refused(value):
    report = agent_pb2.Report(step_id="x")
    report.outcome = value
    with pytest.raises(ProtocolError, match=f"Report.outcome has enum value {value}"):
        refuse_unknown(report)


def test_the_verifiers_messages_are_held_to_the_same_rules():
    event = verifier_pb2.WatchEvent(locked=types_pb2.Lock(lock_id="x"))
    refuse_unknown(event)
    event.locked.selector.MergeFromString(UNKNOWN_FIELD_99)
    with pytest.raises(ProtocolError, match=r"locked\.selector carries field 99"):
        refuse_unknown(event)
