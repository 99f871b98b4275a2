"""Compact JWS: what RFC 8725 warns of is refused before any cryptography."""

import hmac
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA3_256, SHA224, SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stepgrant.compact import (
    JwsHeaderError,
    JwsMalformedError,
    JwsSignatureError,
    base64url,
)
from stepgrant.errors import InvalidInputError
from stepgrant.jwk import public_jwk
from stepgrant.jws import (
    header_segment,
    parse_jws,
    sign_jws,
    sign_raw,
    sign_under,
    verify_jws,
    verify_raw,
)

KEY = ec.generate_private_key(ec.SECP256R1())
MEMBERS = frozenset({"alg", "kid", "typ"})
HEADER = {"kid": "1", "typ": "t"}
TOKEN = sign_jws(HEADER, b'{"a":1}', KEY)
HEAD, PAYLOAD, SIGNATURE = TOKEN.split(".")


def test_a_header_that_is_written_ahead_signs_the_same_token():
    head, payload, _ = sign_under(header_segment(HEADER), b'{"a":1}', KEY).split(".")
    assert [head, payload] == [HEAD, PAYLOAD]
    assert header_segment({**HEADER, "kid": "2"}) != HEAD


def parse(token: str, max_bytes: int = 4096):
    return parse_jws(token, typ="t", members=MEMBERS, max_bytes=max_bytes)


def raw(header: object) -> str:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return f"{base64url(text)}.{PAYLOAD}.{SIGNATURE}"


def test_a_signed_token_is_read_back():
    assert verify_jws(parse(TOKEN), KEY.public_key()) == b'{"a":1}'


def test_the_parts_do_not_show_in_a_repr():
    assert "payload" not in repr(parse(TOKEN))


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "HS256", "RS256", "ES384", "ES256K", "es256", "EdDSA", 1, None]
)
def test_tk_01_any_other_algorithm_is_refused(algorithm):
    with pytest.raises(JwsHeaderError, match="alg"):
        parse(raw({"alg": algorithm, **HEADER}))


ENCODINGS = {
    "PEM": KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    "DER": KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    "point": KEY.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
    "compressed point": KEY.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint),
    "OpenSSH": KEY.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
    "JWK": json.dumps(public_jwk(KEY.public_key())).encode(),
}


@pytest.mark.parametrize("secret", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("algorithm", ["HS256", "HS512", "ES256"])
def test_tk_02_a_mac_under_the_public_key_is_no_signature(secret, algorithm):
    signed = f"{base64url(json.dumps({'alg': algorithm, **HEADER}).encode())}.{PAYLOAD}"
    for digest in ("sha256", "sha512"):  # the second as long as a signature of ES256
        token = f"{signed}.{base64url(hmac.digest(secret, signed.encode(), digest))}"
        with pytest.raises(InvalidInputError, match=r"alg|signature"):
            verify_jws(parse(token), KEY.public_key())


@pytest.mark.parametrize("digest", [SHA224(), SHA384(), SHA512(), SHA3_256()], ids=lambda digest: digest.name)
def test_tk_03_a_signature_by_another_algorithm_of_the_same_key_is_refused(digest):
    r, s = decode_dss_signature(KEY.sign(f"{HEAD}.{PAYLOAD}".encode(), ec.ECDSA(digest)))
    signature = base64url(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
    with pytest.raises(JwsSignatureError, match="does not verify"):
        verify_jws(parse(f"{HEAD}.{PAYLOAD}.{signature}"), KEY.public_key())


@pytest.mark.parametrize(
    "extra",
    [
        {"jku": "https://evil"},
        {"x5u": "https://evil"},
        {"jwk": {}},
        {"x5c": []},
        {"crit": ["b64"]},
        {"crit": []},
        {"b64": False},
        {"enc": "A128GCM"},
        {"zip": "DEF"},
        {"x": 1},
    ],
    ids=str,
)
def test_tk_04_a_header_member_that_is_not_ours_is_refused(extra):
    with pytest.raises(JwsHeaderError, match="exactly"):
        parse(raw({"alg": "ES256", **HEADER, **extra}))


def test_a_missing_member_and_another_type_are_refused():
    with pytest.raises(JwsHeaderError):
        parse(raw({"alg": "ES256", "typ": "t"}))
    with pytest.raises(JwsHeaderError):
        parse(raw({"alg": "ES256", "kid": "1"}))
    with pytest.raises(JwsHeaderError):
        parse(raw({"alg": "ES256", "kid": "1", "typ": "T"}))


@pytest.mark.parametrize(
    "token",
    [
        "",
        HEAD,
        f"{HEAD}.{PAYLOAD}",
        f"{HEAD}.{PAYLOAD}.",
        f"{HEAD}..{SIGNATURE}",
        f".{PAYLOAD}.{SIGNATURE}",
        f"{TOKEN}.{SIGNATURE}.{SIGNATURE}",
        f"{TOKEN}=",
        f"{TOKEN}\n",
        f" {TOKEN}",
        f"{HEAD}=.{PAYLOAD}.{SIGNATURE}",
        f"{HEAD}.{PAYLOAD}+.{SIGNATURE}",
        f"{HEAD}.{PAYLOAD}ä.{SIGNATURE}",
        json.dumps({"payload": PAYLOAD, "protected": HEAD, "signature": SIGNATURE}),
    ],
)
def test_what_is_not_three_segments_of_base64url_is_malformed(token):
    with pytest.raises(JwsMalformedError):
        parse(token)


def test_tk_06_base64url_that_is_not_canonical_is_malformed():
    last = {"A": "B", "Q": "R", "g": "h", "w": "x"}[SIGNATURE[-1]]
    with pytest.raises(JwsMalformedError, match="canonical"):
        parse(f"{HEAD}.{PAYLOAD}.{SIGNATURE[:-1]}{last}")


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"1",
        b"{",
        b"\xff",
        b'{"alg":"ES256","kid":"1","typ":"t","typ":"t"}',
        b'{"alg":"none","alg":"ES256"}',
        b"[" * 700,
    ],
)
def test_tk_06_a_header_that_is_no_strict_object_is_malformed(header):
    with pytest.raises(JwsMalformedError):
        parse(raw(header))


def test_tk_09_sizes_are_bounded_before_anything_is_decoded():
    with pytest.raises(JwsMalformedError, match="more than"):
        parse(TOKEN, max_bytes=len(TOKEN) - 1)
    with pytest.raises(JwsMalformedError, match="header"):
        parse(raw({"alg": "ES256", **HEADER, "kid": "1" * 1024}))


@pytest.mark.parametrize(
    "signature",
    [
        bytes(64),
        bytes(32) + b"\1" * 32,
        b"\1" * 32 + bytes(32),
        b"\xff" * 64,
        KEY.sign(b"m", ec.ECDSA(SHA256())),
        encode_dss_signature(1, 1),
        sign_raw(b"m", KEY) + b"\0",
        sign_raw(b"m", KEY)[:-1],
        sign_raw(b"other", KEY),
        b"",
    ],
    ids=[
        "zeros",
        "r zero",
        "s zero",
        "beyond the order",
        "DER",
        "small DER",
        "longer",
        "shorter",
        "other message",
        "empty",
    ],
)
def test_a_signature_that_is_not_r_and_s_over_the_message_is_refused(signature):
    with pytest.raises(JwsSignatureError):
        verify_raw(signature, b"m", KEY.public_key())


def test_tk_03_a_key_of_another_curve_is_refused():
    of_the_same_size = ec.generate_private_key(ec.SECP256K1())
    with pytest.raises(JwsSignatureError, match="P-256"):
        verify_raw(sign_raw(b"m", of_the_same_size), b"m", of_the_same_size.public_key())
    with pytest.raises(JwsSignatureError):
        verify_raw(sign_raw(b"m", KEY), b"m", ec.generate_private_key(ec.SECP384R1()).public_key())
    with pytest.raises(JwsSignatureError):
        verify_raw(sign_raw(b"m", KEY), b"m", ec.generate_private_key(ec.SECP256R1()).public_key())
