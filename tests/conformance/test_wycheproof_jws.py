"""Wycheproof's JWS set against our ES256 verifier: every `invalid` must be refused, whatever its key."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepgrant.errors import InvalidInputError
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
