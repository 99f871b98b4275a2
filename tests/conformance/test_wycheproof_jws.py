"""Wycheproof's JOSE sets: every `invalid` must be refused, by the verifier of grants and by that of tokens of others."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepgrant.errors import InvalidInputError
from stepgrant.jose import parse_foreign_jws, parse_key, verify_foreign_jws
from stepgrant.jwk import parse_public_jwk
from stepgrant.jws import parse_jws, verify_jws

VECTORS = Path(os.environ.get("STEPGRANT_VECTORS", Path(__file__).parents[3] / "shared" / "data" / "vectors"))
FILE = VECTORS / "wycheproof" / "json_web_signature_test.json"
KID = frozenset({"kid"})
pytestmark = pytest.mark.skipif(not FILE.exists(), reason=f"no vectors: set STEPGRANT_VECTORS ({FILE.name} is absent)")


def cases() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    if FILE.exists():
        for group in json.loads(FILE.read_text())["testGroups"]:
            for test in group["tests"]:
                yield group, test


def accepted(group: dict[str, Any], token: object) -> bool:
    """Our verification as of a grant, but for the header's members: Wycheproof's tokens have `alg` and mostly `kid`."""
    jwk = {k: v for k, v in (group.get("public") or group["private"]).items() if k != "d"}
    try:
        key = parse_public_jwk(jwk, extra=KID)
    except InvalidInputError:
        return False
    for members in ({"alg"}, {"alg", "kid"}):
        try:
            verify_jws(parse_jws(str(token), typ=None, members=frozenset(members), max_bytes=8192), key)
            return True
        except InvalidInputError:
            continue
    return False


def test_tk_01_every_invalid_token_is_refused():
    invalid = [(group, test) for group, test in cases() if test["result"] == "invalid"]
    assert len(invalid) > 300
    assert [test["tcId"] for group, test in invalid if accepted(group, test["jws"])] == []


def test_valid_es256_tokens_are_accepted():
    valid = [
        (group, test)
        for group, test in cases()
        if test["result"] == "valid" and (group.get("public") or {}).get("crv") == "P-256"
    ]
    assert valid
    assert [test["tcId"] for group, test in valid if not accepted(group, test["jws"])] == []


def test_tk_02_no_token_of_another_kind_of_key_is_accepted():
    others = [(group, test) for group, test in cases() if (group.get("public") or {}).get("crv") != "P-256"]
    assert not any(accepted(group, test["jws"]) for group, test in others)


PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})
NARROWER = {
    "a MAC is no signature: whoever can check it can make it": (
        {
            "json_web_signature_test.json": {1, 348, 352, 357, 358, 359, 376, 377},
            "json_web_key_test.json": {2, 13, 14, 15},
            "json_web_crypto_test.json": {1, 48},
        },
        "its `alg` is not one of",
    ),
    "a token without claims says nothing": (
        {"json_web_signature_test.json": {259, 264, 268, 272, 320, 325}},
        "three segments of base64url",
    ),
    "base64url has no question mark (RFC 7515, section 2)": (
        {"json_web_signature_test.json": {372, 373}},
        "three segments of base64url",
    ),
    "the `alg` of a JWK is the one that it may be used with (RFC 7517, section 4.4), here PS256 for a token with PS384": (
        {"json_web_signature_test.json": {346, 350}},
        "its key is for PS256",
    ),
    "ES521, the `alg` of these JWKs, is no algorithm (RFC 7518, section 3.4)": (
        {"json_web_signature_test.json": {347, 351}},
        "no key .* the `alg` of the JWK",
    ),
}
"""The valid tokens that we refuse, by our reason, and how we say so."""


def groups(name: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each test of a file and its group."""
    for group in json.loads((VECTORS / "wycheproof" / name).read_text())["testGroups"]:
        for test in group["tests"]:
            yield group, test


def refusal(group: dict[str, Any], token: object) -> str | None:
    """Why the token is refused as one of an issuer whose keys are the group's; None if it is accepted."""
    given = group.get("public") or group["private"]
    keys, why = [], ""
    for jwk in given.get("keys", [given]):
        try:
            keys.append(
                parse_key({name: jwk[name] for name in jwk if name not in PRIVATE}, uses=frozenset({"sig", None}))
            )
        except InvalidInputError as error:
            why = str(error)
    try:
        types = frozenset({None, "JWT", "JOSE"})
        jws = parse_foreign_jws(str(token), members=frozenset({"kid", "typ"}), types=types, max_bytes=8192)
        named = [key for key in keys if jws.header.get("kid") in {key.kid, None}]
        if len(named) != 1:
            return f"no key of that name, or more than one; {why}"
        verify_foreign_jws(jws, named[0])
    except InvalidInputError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "name", ["json_web_signature_test.json", "json_web_key_test.json", "json_web_crypto_test.json"]
)
def test_tk_01_a_token_of_others_is_accepted_if_it_is_valid_and_within_our_narrower_rules(name: str) -> None:
    answers = {
        test["tcId"]: (test["result"], refusal(group, test["jws"])) for group, test in groups(name) if "jws" in test
    }
    assert [number for number, (result, why) in answers.items() if result == "invalid" and why is None] == []
    excluded = set()
    for by_file, says in NARROWER.values():
        for number in by_file.get(name, ()):
            assert re.search(says, answers[number][1] or "accepted"), number
            excluded.add(number)
    refused = {number for number, (result, why) in answers.items() if result == "valid" and why is not None}
    assert refused == excluded


def test_an_encrypted_token_is_no_token_at_all() -> None:
    encrypted = [(group, test) for group, test in groups("json_web_crypto_test.json") if "jwe" in test]
    assert len(encrypted) > 30
    assert [test["tcId"] for group, test in encrypted if not refusal(group, test["jwe"])] == []
