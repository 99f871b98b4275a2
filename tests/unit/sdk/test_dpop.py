"""DPoP: one proof, one call, one key, just now, once."""

import json
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from stepgrant.dpop import (
    InstanceKey,
    ReplayCache,
    grpc_htu,
    make_proof,
    open_message,
    verify_open_proof,
    verify_proof,
)
from stepgrant.errors import GrantRefusedError, InvalidInputError, MisuseError, RefusalCode
from stepgrant.grant import GRANT_TYPE
from stepgrant.jwk import public_jwk
from stepgrant.jws import sign_jws
from tests.kit.clock import START

GRANT = "aaaa.bbbb.cccc"
HTU = "https://orders.acme.org/orders/ord_1/refund"
KEY = InstanceKey.generate()
SECOND = timedelta(seconds=1)


def proof(key=KEY, **changes) -> str:
    return make_proof(key, **{"htm": "POST", "htu": HTU, "grant": GRANT, "now": START, "jti": "1", **changes})


def check(text: str, *, replay: ReplayCache | None = None, **changes) -> None:
    expected = {"htm": "POST", "htu": HTU, "grant": GRANT, "now": START, "jkt": KEY.jkt, **changes}
    verify_proof(text, **expected, replay=replay or ReplayCache())


def refused(text: str, **changes) -> str:
    with pytest.raises(GrantRefusedError) as caught:
        check(text, **changes)
    assert caught.value.refusal.code is RefusalCode.HOLDER
    return caught.value.refusal.reason


def signed(header=None, claims=None, private=None) -> str:
    """A proof with whatever in it, genuinely signed by the key in its header."""
    private = private or ec.generate_private_key(ec.SECP256R1())
    whole = {"typ": "dpop+jwt", "jwk": public_jwk(private.public_key()), **(header or {})}
    return sign_jws({k: v for k, v in whole.items() if v is not ...}, json.dumps(claims or {}).encode(), private)


def test_a_proof_for_this_very_call_passes():
    check(proof())


@pytest.mark.parametrize(
    "changes",
    [
        {"htm": "GET"},
        {"htm": "post"},
        {"htu": HTU + "/"},
        {"htu": HTU.replace("https", "http")},
        {"htu": "https://mail.acme.org/orders/ord_1/refund"},
        {"grant": "aaaa.bbbb.dddd"},
        {"jkt": InstanceKey.generate().jkt},
    ],
    ids=["verb", "case", "path", "scheme", "host", "grant", "key"],
)
def test_a_proof_for_another_call_grant_or_key_is_refused_inv_08(changes):
    """INV-08: the holder, by proof of possession."""
    refused(proof(), **changes)


@pytest.mark.parametrize(("age", "passes"), [(-3, False), (-2, True), (0, True), (5, True), (6, False)])
def test_a_proof_is_good_for_five_seconds_and_the_leeway_of_clocks(age, passes):
    if passes:
        check(proof(), now=START + age * SECOND)
    else:
        assert "clocks" in refused(proof(), now=START + age * SECOND)


def test_a_proof_is_good_once_inv_08():
    """INV-08: a proof that was seen is no proof."""
    replay = ReplayCache()
    check(proof(), replay=replay)
    assert "used before" in refused(proof(), replay=replay)
    check(proof(jti="2"), replay=replay)


def test_a_proof_is_remembered_for_as_long_as_it_would_pass_inv_08():
    """INV-08: from two seconds ahead of the clock to the last moment of the sixth second."""
    replay, made = ReplayCache(), proof(now=START + 2 * SECOND)
    check(made, replay=replay)
    for tenths in range(80):
        assert "used before" in refused(made, replay=replay, now=START + tenths * SECOND / 10)
    assert "clocks" in refused(made, replay=replay, now=START + 8 * SECOND)


def test_the_same_jti_of_another_key_is_another_proof():
    replay, other = ReplayCache(), InstanceKey.generate()
    check(proof(), replay=replay)
    check(proof(other), replay=replay, jkt=other.jkt)


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "JWT"},
        {"typ": GRANT_TYPE},
        {"typ": ...},
        {"jwk": ...},
        {"jwk": {"kty": "oct", "k": "AA"}},
        {"kid": "1"},
        {"crit": []},
        {"b64": False},
        {"x5u": "https://evil"},
    ],
    ids=str,
)
def test_a_header_with_anything_else_is_refused(header):
    refused(signed(header))


def test_a_jwk_with_the_private_part_is_refused():
    private = ec.generate_private_key(ec.SECP256R1())
    refused(signed({"jwk": {**public_jwk(private.public_key()), "d": "AA"}}, private=private))


@pytest.mark.parametrize(
    "changes",
    [
        {"iat": "0"},
        {"iat": True},
        {"iat": 1.5},
        {"jti": ""},
        {"jti": "x" * 129},
        {"jti": 7},
        {"ath": ...},
        {"exp": 1},
        {"htu": 1},
    ],
    ids=str,
)
def test_claims_that_are_missing_unknown_or_of_another_type_are_refused(changes):
    private = ec.generate_private_key(ec.SECP256R1())
    key = InstanceKey(private)
    claims = {"jti": "1", "htm": "POST", "htu": HTU, "iat": int(START.timestamp()), "ath": "x", **changes}
    text = signed(claims={k: v for k, v in claims.items() if v is not ...}, private=private)
    refused(text, jkt=key.jkt)


@pytest.mark.parametrize("text", ["", "a.b.c", "a" * 5000, "{}", proof()[:-2], proof() + "."])
def test_what_is_no_proof_is_refused(text):
    refused(text)


def test_a_signature_of_another_proof_is_refused():
    head, _, _ = proof().rpartition(".")
    refused(f"{head}.{proof(jti='2').rpartition('.')[2]}")


def test_a_full_replay_cache_refuses_and_recovers_with_time():
    replay = ReplayCache(capacity=1)
    check(proof(), replay=replay)
    assert "too many" in refused(proof(jti="2"), replay=replay)
    later = START + 8 * SECOND
    check(proof(jti="2", now=later), replay=replay, now=later)


def test_a_wall_clock_that_is_set_back_revives_no_proof():
    replay = ReplayCache()
    check(proof(), replay=replay)
    later = START + 60 * SECOND
    check(proof(jti="2", now=later), replay=replay, now=later)
    refused(proof(), replay=replay, now=START)


def test_a_replay_cache_without_room_is_misuse():
    with pytest.raises(MisuseError):
        ReplayCache(capacity=0)


def test_an_instance_key_shows_nothing_of_itself():
    assert "private" not in repr(KEY).lower().replace("_private", "")
    assert len(KEY.jkt) == 32
    assert len(KEY.sign_es256_raw(b"x")) == 64
    with pytest.raises(MisuseError):
        InstanceKey(ec.generate_private_key(ec.SECP384R1()))


def test_possession_is_proven_at_open_for_one_gateway_nonce_and_certificate():
    message = open_message("spiffe://acme.org/gateway", bytes(32), bytes(32))
    signature = KEY.sign_es256_raw(message)
    assert verify_open_proof(KEY.public_der, signature, message) == KEY.jkt
    for other in (
        open_message("spiffe://acme.org/gateway2", bytes(32), bytes(32)),
        open_message("spiffe://acme.org/gateway", b"1" * 32, bytes(32)),
        open_message("spiffe://acme.org/gateway", bytes(32), b"1" * 32),
    ):
        with pytest.raises(InvalidInputError):
            verify_open_proof(KEY.public_der, signature, other)
    with pytest.raises(InvalidInputError):
        verify_open_proof(InstanceKey.generate().public_der, signature, message)
    for nonce, leaf in ((b"", bytes(32)), (bytes(32), b"")):
        with pytest.raises(InvalidInputError):
            open_message("spiffe://acme.org/gateway", nonce, leaf)


def test_the_uri_of_a_grpc_call_is_its_authority_and_method():
    assert (
        grpc_htu("orders.acme.org:443", "/orders.Orders/Refund") == "https://orders.acme.org:443/orders.Orders/Refund"
    )
