"""The numbered verification: what passes is one call shape, and each departure from it is refused where it departs."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from stepgrant.calls import Call
from stepgrant.dpop import InstanceKey, make_proof
from stepgrant.errors import GrantRefusedError, MisuseError, RefusalCode
from stepgrant.grant import Binding, Tier, to_payload
from stepgrant.intent import digest, parse_object
from stepgrant.selector import Selector
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.verify.verifier import DpopHolder, Expected, TlsHolder, VerifiedCall, verify_grant
from tests.kit.enforcement import (
    AGENT,
    AUDIENCE,
    CERTIFICATE,
    ISSUER,
    ORIGIN,
    REFUND,
    SECOND,
    GatewayDouble,
    ResourceDouble,
    lifted,
    lock,
    some_ulid,
)


def verify(resource: ResourceDouble, token: str, call: Call = REFUND, holder=None) -> VerifiedCall:
    return verify_grant(
        token,
        call,
        holder or resource.gateway.holder(token),
        expected=resource.expected,
        feed=resource.feed,
        replay=resource.replay,
        now=resource.clock.now(),
        monotonic=resource.clock.monotonic(),
    )


def refused(resource: ResourceDouble, token: str, call: Call = REFUND, holder=None) -> RefusalCode:
    with pytest.raises(GrantRefusedError) as caught:
        verify(resource, token, call, holder)
    assert caught.value.refusal.reason
    assert caught.value.refusal.next
    return caught.value.refusal.code


@pytest.fixture
def resource() -> ResourceDouble:
    return ResourceDouble()


def call(text: str, tool: str = "orders.refund") -> Call:
    return Call(tool, parse_object(text))


def test_a_live_grant_for_this_very_call_yields_the_verified_call(resource):
    verified = verify(resource, resource.gateway.mint())

    assert verified.tool == "orders.refund"
    assert verified.arguments == REFUND.arguments
    assert verified.target == "pg://orders/ord_1"
    assert verified.claims == resource.gateway.claims()


def test_tk_11_the_order_of_arguments_and_the_spelling_of_numbers_do_not_matter(resource):
    verify(resource, resource.gateway.mint(), call('{"amount": 40.0, "order_id": "ord_1"}'))


@pytest.mark.parametrize(
    "arguments",
    [
        '{"order_id": "ord_1", "amount": 41}',
        '{"order_id": "ord_1", "amount": "40"}',
        '{"order_id": "ord_1"}',
        '{"order_id": "ord_1", "amount": 40, "note": null}',
        '{"order_id": "ord_1", "amount": 40, "order_id2": "ord_1"}',
    ],
)
def test_tk_11_other_arguments_are_refused_inv_08(resource, arguments):
    """INV-08: arguments, by their digest."""
    assert refused(resource, resource.gateway.mint(), call(arguments)) is RefusalCode.ARGUMENTS


def test_another_target_is_refused_inv_08(resource):
    """INV-08: the target follows from the call at hand, and must be the grant's."""
    gateway = resource.gateway
    token = gateway.mint(target="pg://orders/ord_2")
    assert refused(resource, token) is RefusalCode.TARGET


def test_another_tool_is_refused_inv_08(resource):
    """INV-08: the tool, even where target and arguments are the same."""
    other = Call("orders.get", REFUND.arguments)
    assert refused(resource, resource.gateway.mint(), other) is RefusalCode.TOOL


def test_a_tool_of_the_grant_that_is_not_this_resources_is_refused(resource):
    token = resource.gateway.mint(tool="mail.send")
    assert refused(resource, token, Call("mail.send", REFUND.arguments)) is RefusalCode.TOOL


def test_a_tool_that_changed_since_the_grant_is_refused(resource):
    assert refused(resource, resource.gateway.mint(tool_digest=bytes(32))) is RefusalCode.TOOL_CHANGED


@pytest.mark.parametrize("audience", ["https://mail.acme.org", AUDIENCE + "/x", AUDIENCE[:-1], AUDIENCE.upper()])
def test_tk_07_a_grant_for_another_audience_is_refused_inv_08(resource, audience):
    """INV-08: the audience is compared whole (RFC 8725, section 3.9)."""
    assert refused(resource, resource.gateway.mint(audience=audience)) is RefusalCode.AUDIENCE


@pytest.mark.parametrize("issuer", [ISSUER + "/x", ISSUER[:-1], "spiffe://evil.org/gateway"])
def test_tk_07_a_grant_of_another_issuer_is_refused(resource, issuer):
    assert refused(resource, resource.gateway.mint(issuer=issuer)) is RefusalCode.ISSUER


@pytest.mark.parametrize(
    "holder",
    [
        TlsHolder(AGENT, bytes(32)),
        TlsHolder(parse_spiffe_id("spiffe://acme.org/agent/other"), CERTIFICATE),
        DpopHolder("x.y.z", "POST", ORIGIN),
    ],
    ids=["another certificate", "another workload", "another kind of proof"],
)
def test_another_holder_is_refused_inv_08(resource, holder):
    """INV-08: the certificate of the stream, and no other, for a grant bound by certificate."""
    assert refused(resource, resource.gateway.mint(), holder=holder) is RefusalCode.HOLDER


def test_a_grant_bound_otherwise_than_the_audience_asks_is_refused(resource):
    token = resource.gateway.mint(binding=Binding.KEY, confirmation=resource.gateway.instance_key.jkt)
    assert refused(resource, token) is RefusalCode.HOLDER
    key, now = resource.gateway.instance_key, resource.clock.now()
    proof = make_proof(key, htm="POST", htu=ORIGIN, grant=token, now=now, jti="1")
    assert refused(resource, token, holder=DpopHolder(proof, "POST", ORIGIN)) is RefusalCode.HOLDER


def test_a_grant_bound_to_the_instance_key_is_good_with_its_proof_only_inv_08():
    """INV-08: the instance key, for a grant bound by key; each proof once."""
    resource = ResourceDouble(GatewayDouble(binding=Binding.KEY))
    token = resource.gateway.mint()
    holder = resource.gateway.holder(token)
    verify(resource, token, holder=holder)
    assert refused(resource, token, holder=holder) is RefusalCode.HOLDER

    thief = InstanceKey.generate()
    proof = make_proof(thief, htm="POST", htu=ORIGIN, grant=token, now=resource.clock.now(), jti="2")
    assert refused(resource, token, holder=DpopHolder(proof, "POST", ORIGIN)) is RefusalCode.HOLDER
    assert refused(resource, token, holder=TlsHolder(AGENT, CERTIFICATE)) is RefusalCode.HOLDER


def test_tk_12_a_grant_is_refused_from_its_exp_on_without_leeway_inv_04(resource):
    """INV-04: a grant never outlives its end."""
    token = resource.gateway.mint()
    resource.pass_time(timedelta(seconds=19))
    verify(resource, token)
    resource.pass_time(SECOND)
    assert refused(resource, token) is RefusalCode.EXPIRED


def test_ck_01_a_clock_that_was_set_back_revives_nothing_inv_04(resource):
    """INV-04: `exp` is compared with the later of the own clock and the gateway's, carried on by the monotonic clock."""
    token = resource.gateway.mint()
    resource.pass_time(timedelta(seconds=20))
    resource.clock.set_wall(resource.clock.now() - timedelta(seconds=15))
    assert refused(resource, token) is RefusalCode.EXPIRED


@pytest.mark.parametrize("claim", ["not_before", "issued_at"])
def test_ck_03_a_grant_of_the_future_is_refused_beyond_the_leeway(resource, claim):
    now = resource.clock.now()
    later = {"expires_at": now + timedelta(seconds=30)}
    verify(resource, resource.gateway.mint(**{claim: now + timedelta(seconds=2)}, **later))
    token = resource.gateway.mint(**{claim: now + timedelta(seconds=3)}, **later)
    assert refused(resource, token) is RefusalCode.NOT_YET_VALID


def test_an_unknown_key_is_refused_inv_11(resource):
    """INV-11: a key that nobody vouched for."""
    resource.gateway.keys.rotate(lambda _: None)
    assert refused(resource, resource.gateway.mint()) is RefusalCode.UNKNOWN_KEY


def test_a_key_past_its_end_is_refused(resource):
    token = resource.gateway.mint(expires_at=resource.gateway.announced.not_after)
    resource.clock.set_wall(resource.gateway.announced.not_after)
    assert refused(resource, token) is RefusalCode.UNKNOWN_KEY


def test_a_signature_by_another_key_under_a_known_id_is_refused(resource):
    other = GatewayDouble(resource.clock)
    assert refused(resource, other.mint()) is RefusalCode.SIGNATURE


def test_a_revoked_grant_is_refused(resource):
    resource.hear(resource.gateway.revoked("completed"))
    assert refused(resource, resource.gateway.mint()) is RefusalCode.REVOKED
    verify(resource, resource.gateway.mint(grant_id=some_ulid("another")))


def test_a_locked_grant_is_refused_also_after_the_lock_is_lifted(resource):
    selector = Selector(tool="orders.*")
    token = resource.gateway.mint()
    resource.hear(lock(selector))
    assert refused(resource, token) is RefusalCode.LOCKED
    resource.hear(lifted(selector, resource.clock.now()))
    assert refused(resource, token) is RefusalCode.LOCKED
    resource.pass_time(SECOND)
    verify(resource, resource.gateway.mint(grant_id=some_ulid("newer")))


def test_rv_02_nothing_is_accepted_while_the_feed_is_stale_inv_11(resource):
    """INV-11: the view of the grant's issuer is older than the tier allows."""
    resource.clock.advance(timedelta(seconds=5))
    verify(resource, resource.gateway.mint())
    resource.clock.advance(timedelta(milliseconds=1))
    assert refused(resource, resource.gateway.mint()) is RefusalCode.FEED_STALE
    resource.begin()
    verify(resource, resource.gateway.mint())


def test_nothing_is_accepted_without_a_trusted_feed_inv_11(resource):
    """INV-11: trust in the subscription has ended."""
    resource.feed.lose("the connection broke")
    assert refused(resource, resource.gateway.mint()) is RefusalCode.FEED_STALE


def test_nothing_is_accepted_without_the_catalog_of_the_audience(resource):
    resource.begin(catalog=())
    assert refused(resource, resource.gateway.mint()) is RefusalCode.FEED_STALE


def header(resource: ResourceDouble, **changes) -> dict:
    return {"kid": resource.gateway.keys.active().kid, "typ": "stepgrant+jwt", **changes}


def payload(resource: ResourceDouble, **changes) -> bytes:
    claims = {**to_payload(resource.gateway.claims()), **changes}
    return json.dumps({name: value for name, value in claims.items() if value is not ...}).encode()


@pytest.mark.parametrize("typ", ["JWT", "dpop+jwt", "wit+jwt", "application/stepgrant+jwt", "STEPGRANT+JWT", None])
def test_a_token_of_another_type_is_no_grant(resource, typ):
    token = resource.gateway.sign(header(resource, typ=typ), payload(resource))
    assert refused(resource, token) is RefusalCode.GRANT_HEADER


@pytest.mark.parametrize(
    "kid", ["", "1", f"{some_ulid('x')}", f"{some_ulid('x')}-01", f"{some_ulid('x')}-1\n", 7, None]
)
def test_a_kid_that_is_no_key_id_is_refused(resource, kid):
    token = resource.gateway.sign(header(resource, kid=kid), payload(resource))
    assert refused(resource, token) is RefusalCode.GRANT_HEADER


@pytest.mark.parametrize("ver", [0, 2, "1", 1.0, True, None, ...])
def test_an_unknown_version_is_refused_inv_11(resource, ver):
    """INV-11: unknown version."""
    assert refused(resource, resource.gateway.sign(header(resource), payload(resource, ver=ver))) is RefusalCode.CLAIMS


@pytest.mark.parametrize("exp", ["1795262420", 1795262420.0, float("nan"), True, None, ..., 0, -1, 2**63])
def test_ck_05_an_exp_of_another_form_is_refused(resource, exp):
    assert refused(resource, resource.gateway.sign(header(resource), payload(resource, exp=exp))) is RefusalCode.CLAIMS


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": 1},
        {"aud": [AUDIENCE]},
        {"sub": "spiffe://acme.org//x"},
        {"jti": "abc"},
        {"txn": some_ulid("t").lower()},
        {"uses": 0},
        {"tier": "privileged"},
        {"cnf": {}},
        {"cnf": {"jkt": "AA", "x5t#S256": "AA"}},
        {"authorization_details": []},
        {"chain": []},
        {"chain": ...},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_claims_that_are_unknown_or_malformed_are_refused(resource, changes):
    token = resource.gateway.sign(header(resource), payload(resource, **changes))
    assert refused(resource, token) is RefusalCode.CLAIMS


A, B, C, D = (f"spiffe://acme.org/agent/{name}" for name in "abcd")
ME = str(AGENT)


@pytest.mark.parametrize("chain", [(A,), (ME, A), (ME, A, ME), (A, A, ME), (A, B, C, D, ME), ("a", ME)])
def test_id_16_a_chain_that_no_hand_off_makes_is_refused(resource, chain):
    assert refused(resource, resource.gateway.mint(chain=chain)) is RefusalCode.CLAIMS


def test_id_16_the_chain_says_whom_a_task_came_through_and_sub_alone_who_may_use_the_grant(resource):
    assert verify(resource, resource.gateway.mint(chain=(A, B, C, ME))).chain == (A, B, C, ME)
    assert refused(resource, resource.gateway.mint(subject=A, chain=(ME, A))) is RefusalCode.HOLDER


def test_a_claim_that_stands_twice_is_refused(resource):
    twice = payload(resource)[:-1] + b', "aud": "' + AUDIENCE.encode() + b'"}'
    assert refused(resource, resource.gateway.sign(header(resource), twice)) is RefusalCode.CLAIMS


@pytest.mark.parametrize("token", ["", "a", "a.b", "a.b.c.d", "a..c", "{}", "a.b.c" * 2000, "ä.b.c", "a.b.c\n"])
def test_what_is_no_compact_token_is_refused(resource, token):
    assert refused(resource, token, holder=TlsHolder(AGENT, CERTIFICATE)) is RefusalCode.GRANT_MALFORMED


def test_id_13_a_verifier_without_issuer_or_audience_refuses_to_start_inv_13():
    """INV-13: an unset security option."""
    for issuer, audience in ((None, AUDIENCE), (ISSUER, None), ("", AUDIENCE), (ISSUER, ""), ("acme", AUDIENCE)):
        with pytest.raises(MisuseError):
            Expected.of(issuer, audience)


def test_a_sensitive_grant_and_one_with_uses_must_be_redeemed(resource):
    assert verify(resource, resource.gateway.mint(tier=Tier.SENSITIVE)).claims.must_be_redeemed
    assert verify(resource, resource.gateway.mint(uses=3)).claims.must_be_redeemed
    assert not verify(resource, resource.gateway.mint()).claims.must_be_redeemed


def test_arguments_that_cannot_name_the_target_are_refused(resource):
    bad = call('{"order_id": ["ord_1"], "amount": 40}')
    token = resource.gateway.mint(args_sha256=digest(bad.arguments))
    assert refused(resource, token, bad) is RefusalCode.CALL_MALFORMED


def test_no_reason_carries_the_token_or_an_argument_value(resource):
    token = resource.gateway.mint()
    with pytest.raises(GrantRefusedError) as caught:
        verify(resource, token, call('{"order_id": "ord_1", "amount": 4711}'))
    assert "4711" not in str(caught.value)
    assert token not in str(caught.value)
    assert replace(caught.value.refusal) == caught.value.refusal
