"""Key sets of issuers: one key to a `kid`, and only keys that verify signatures."""

import json
from typing import Any

import pytest

from stepgrant.errors import InvalidInputError
from stepgrant_gateway.identity.jwks import MAX_SET_BYTES, parse_key_set
from tests.kit.foreign import ForeignSigner

RSA, EC = ForeignSigner.of("RS256", "rsa"), ForeignSigner.of("ES256", "ec")


def key_set(*keys: Any) -> bytes:
    return json.dumps({"keys": keys}).encode()


def test_keys_of_other_kinds_and_uses_are_passed_over() -> None:
    others = [RSA.jwk(kid="e", use="enc"), {"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "o"}, EC.jwk(kid=None), 5]
    found = parse_key_set(key_set(*others, RSA.jwk(use="sig", x5t="AA"), EC.jwk(alg="ES256")))
    assert set(found.by_kid) == {"rsa", "ec"}
    assert found.by_kid["ec"].algorithms == {"ES256"}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (b"", "JSON"),
        (b"[]", "JSON object"),
        (b"{}", "no `keys`"),
        (b'{"keys": {}}', "no `keys`"),
        (key_set(), "no key"),
        (key_set(RSA.jwk(use="enc")), "no key to verify signatures with"),
        (key_set(*[RSA.jwk(kid=str(n)) for n in range(65)]), "more than 64"),
        (key_set(RSA.jwk(), EC.jwk(kid="rsa")), "two signing keys"),
        (key_set(RSA.jwk(d="AQ")), "private or a symmetric"),
        (key_set(EC.jwk(), {"kty": "oct", "k": "AA", "kid": "s"}), "private or a symmetric"),
        (b'{"keys": [], "keys": []}', "twice"),
        (b" " * (MAX_SET_BYTES + 1), "more than"),
    ],
)
def test_tk_15_a_set_that_is_not_one_key_to_a_kid_is_refused_whole(document: bytes, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        parse_key_set(document)
