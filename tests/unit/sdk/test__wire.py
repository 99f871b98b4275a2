"""INV-11: what the gateway says is a value only if every part of it is as the protocol has it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from stepgrant._wire import declare_message, open_message, read_answer, report_message
from stepgrant.answers import Challenge, Closed, Ended, Grant, HandedOff, Opened, Settled
from stepgrant.errors import Denial, DenialCode, ProtocolError
from stepgrant.grant import Binding, Tier
from stepgrant.v1 import agent_pb2, types_pb2

STEP = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
NOW_MS = 1_795_000_000_000


def message(**member):
    return agent_pb2.GatewayMessage(reply_to=3, **member)


def granted(**changes):
    fields = {
        "step_id": STEP,
        "decision_id": STEP,
        "grant": "a.b.c",
        "grant_id": STEP,
        "expires_unix_ms": NOW_MS + 20_000,
        "uses": 1,
        "tier": "sensitive",
        "audience": "spiffe://acme.org/r",
        "binding": agent_pb2.BINDING_MTLS,
        "target": "pg://orders",
        "at_unix_ms": NOW_MS,
        "step_expires_unix_ms": NOW_MS + 60_000,
        "policies": ["refund"],
    }
    return message(granted=agent_pb2.Granted(**(fields | changes)))


def opened(**changes):
    fields = {
        "task_id": STEP,
        "instance_id": STEP,
        "expires_unix_ms": NOW_MS,
        "tools": [agent_pb2.ToolOffer(tool="a.b", audience="x", binding=agent_pb2.BINDING_KEY)],
        "limits": agent_pb2.Limits(live_steps=1, depth=2, arguments_bytes=3, steps=4),
        "resume_token": bytes(32),
        "live_steps": [STEP],
    }
    return message(opened=agent_pb2.Opened(**(fields | changes)))


def handed_off(**changes):
    fields = {"step_id": STEP, "hand_off_id": STEP, "ticket": b"t" * 32, "decision_id": STEP}
    return message(handed_off=agent_pb2.HandedOff(**(fields | changes)))


def test_a_grant_is_read_with_its_times_and_without_its_token_in_repr():
    number, grant = read_answer(granted())
    assert number == 3
    assert isinstance(grant, Grant)
    assert (grant.tier, grant.binding, grant.uses) == (Tier.SENSITIVE, Binding.MTLS, 1)
    assert grant.life == timedelta(seconds=20)
    assert grant.at == datetime.fromtimestamp(NOW_MS / 1000, UTC)
    assert "a.b.c" not in repr(grant)


def test_uses_of_zero_mean_unlimited():
    assert read_answer(granted(uses=0))[1].uses is None


def test_the_other_answers_are_read():
    assert isinstance(read_answer(opened())[1], Opened)
    challenge = agent_pb2.Challenge(nonce=bytes(32), gateway_id="spiffe://a/b", revision=1)
    assert isinstance(read_answer(message(challenge=challenge))[1], Challenge)
    assert read_answer(message(settled=agent_pb2.Settled(step_id=STEP, state="failed")))[1] == Settled(
        STEP, "failed", late=False
    )
    ended = agent_pb2.Revoked(step_id=STEP, state="revoked", code="locked", reason="r", at_unix_ms=NOW_MS)
    assert read_answer(message(revoked=ended))[1] == Ended(STEP, "revoked", "locked", "r")
    assert read_answer(message(closed=agent_pb2.Closed(code="closed", reason="r")))[1] == Closed("closed", "r")
    denied = types_pb2.Denied(step_id=STEP, decision_id=STEP, code="no_permit", reason="r", next="n", retry_after_ms=5)
    assert read_answer(message(denied=denied))[1] == Denial(
        DenialCode.NO_PERMIT, "r", "n", decision_id=STEP, step_id=STEP, retry_after=timedelta(milliseconds=5)
    )


@pytest.mark.parametrize(
    "bad",
    [
        granted(step_id=STEP.lower()),
        granted(grant=""),
        granted(grant="x" * 4097),
        granted(grant="é"),
        granted(tier="privileged"),
        granted(audience=""),
        granted(audience="x" * 2049),
        granted(target=""),
        granted(expires_unix_ms=NOW_MS),
        granted(expires_unix_ms=0),
        granted(expires_unix_ms=2**62),
        granted(step_expires_unix_ms=NOW_MS + 1),
        granted(policies=["p"] * 33),
        granted(binding=agent_pb2.BINDING_UNSPECIFIED),
        opened(task_id="x"),
        opened(tools=[agent_pb2.ToolOffer(tool="b", audience="x", binding=agent_pb2.BINDING_KEY)]),
        opened(limits=None),
        opened(resume_token=b""),
        opened(resume_token=bytes(31)),
        opened(live_steps=["x"]),
        opened(live_steps=[STEP] * 1025),
        opened(branch_id="x"),
        handed_off(step_id=""),
        handed_off(hand_off_id=STEP.lower()),
        handed_off(decision_id=""),
        handed_off(ticket=b""),
        handed_off(ticket=bytes(31)),
        handed_off(ticket=bytes(33)),
        message(challenge=agent_pb2.Challenge(nonce=bytes(31), gateway_id="g", revision=1)),
        message(challenge=agent_pb2.Challenge(nonce=bytes(32), gateway_id="g", revision=2)),
        message(settled=agent_pb2.Settled(step_id=STEP, state="granted")),
        message(revoked=agent_pb2.Revoked(step_id=STEP, state="failed", code="c", at_unix_ms=NOW_MS)),
        message(revoked=agent_pb2.Revoked(step_id=STEP, state="revoked", code="", at_unix_ms=NOW_MS)),
        message(denied=types_pb2.Denied(step_id=STEP, code="because")),
        message(denied=types_pb2.Denied(step_id=STEP, code="no_permit", reason="x" * 1025)),
        message(closed=agent_pb2.Closed(code="x" * 65)),
        agent_pb2.GatewayMessage(reply_to=3),
    ],
)
def test_what_the_protocol_does_not_allow_is_refused(bad):
    with pytest.raises(ProtocolError):
        read_answer(bad)


def test_a_hand_off_is_read_without_its_ticket_in_repr_and_a_branch_by_its_id():
    answer = read_answer(handed_off())[1]
    assert answer == HandedOff(STEP, STEP, b"t" * 32, STEP)
    assert "ttt" not in repr(answer)
    assert read_answer(opened(branch_id=STEP))[1].branch_id == STEP
    assert read_answer(opened())[1].branch_id == ""


def test_what_is_taken_up_again_brings_its_resume_token_and_no_ticket():
    words = {"task_type": "Refund", "parameters_json": "{}", "purpose": "", "instance_key": b"k", "signature": b"s"}
    new = open_message(**words, ticket=b"a", hand_off=b"h")
    again = open_message(**words, ticket=b"a", hand_off=b"h", resume_token=b"r")
    assert (new.assignment, new.hand_off, new.resume_token) == (b"a", b"h", b"")
    assert (again.assignment, again.hand_off, again.resume_token) == (b"", b"", b"r")


def test_an_unknown_field_is_refused():
    with pytest.raises(ProtocolError, match="field 99"):
        read_answer(agent_pb2.GatewayMessage.FromString(granted().SerializeToString() + b"\x98\x06\x01"))


def test_a_refusal_never_quotes_the_token():
    with pytest.raises(ProtocolError) as refused:
        read_answer(granted(grant="secret" * 1000))
    assert "secret" not in str(refused.value)


def test_no_wanted_lifetime_is_zero_and_error_classes_are_cut():
    declare = declare_message(
        step_id=STEP, parent_step_id="", tool="a.b", arguments_json="{}", purpose="", wanted_ttl=None
    )
    assert declare.wanted_ttl_ms == 0
    report = report_message(step_id=STEP, failed=True, result_sha256=b"", error_class="E" * 300)
    assert (len(report.error_class), report.outcome) == (256, types_pb2.OUTCOME_FAILED)
