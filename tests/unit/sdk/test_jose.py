"""Tokens by keys of others: the algorithm is the key's, and nothing that the header says chooses another."""

import math

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.hashes import SHA256

from stepgrant.compact import JwsHeaderError, JwsMalformedError, JwsSignatureError, base64url
from stepgrant.errors import InvalidInputError
from stepgrant.jose import ALGORITHMS, parse_foreign_jws, parse_key, verify_foreign_jws
from tests.kit.foreign import ForeignSigner, integer, rsa_key

SIG = frozenset({"sig", None})
SIGNERS = {algorithm: ForeignSigner.of(algorithm) for algorithm in sorted(ALGORITHMS)}


def parse(token: str, max_bytes: int = 4096):
    members, types = frozenset({"kid", "typ"}), frozenset({None, "JWT", "JOSE"})
    return parse_foreign_jws(token, members=members, types=types, max_bytes=max_bytes)


def verify(token: str, jwk: object) -> bytes:
    return verify_foreign_jws(parse(token), parse_key(jwk, uses=SIG))


@pytest.mark.parametrize("algorithm", SIGNERS)
@pytest.mark.parametrize("said", [True, False], ids=["alg in the key", "no alg in the key"])
def test_each_algorithm_verifies_with_its_own_key(algorithm: str, said: bool):
    signer = SIGNERS[algorithm]
    jwk = signer.jwk(use="sig", key_ops=["verify"], alg=algorithm if said else None, x5t="is passed over")
    assert verify(signer.sign({"a": 1}), jwk) == b'{"a": 1}'


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_tk_03_a_token_by_another_algorithm_than_its_keys_is_refused(algorithm: str):
    for other in sorted(ALGORITHMS - {algorithm}):
        with pytest.raises(JwsHeaderError, match="its key is for"):
            verify(SIGNERS[other].sign({}), SIGNERS[algorithm].jwk(alg=algorithm))


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_a_signature_of_another_message_or_length_is_refused(algorithm: str):
    signer = SIGNERS[algorithm]
    head, payload, _ = signer.sign({}).split(".")
    right = signer.signature(f"{head}.{payload}".encode())
    wrong = [
        signer.signature(b"other"),
        right + b"\0",
        right[:-1],
        b"\0" + right,
        bytes(len(right)),
        b"\xff" * len(right),
    ]
    for signature in wrong:
        with pytest.raises(JwsSignatureError):
            verify(f"{head}.{payload}.{base64url(signature)}", signer.jwk())


def test_an_ecdsa_signature_in_der_is_refused():
    signer = SIGNERS["ES256"]
    head, payload, _ = signer.sign({}).split(".")
    assert isinstance(signer.key, ec.EllipticCurvePrivateKey)
    der = signer.key.sign(f"{head}.{payload}".encode(), ec.ECDSA(SHA256()))
    with pytest.raises(JwsSignatureError, match="bytes"):
        verify(f"{head}.{payload}.{base64url(der)}", signer.jwk())


def test_a_pss_salt_of_another_length_is_refused():
    head, payload, _ = SIGNERS["PS256"].sign({}).split(".")
    scheme = padding.PSS(padding.MGF1(SHA256()), 20)
    signature = rsa_key().sign(f"{head}.{payload}".encode(), scheme, SHA256())
    with pytest.raises(JwsSignatureError):
        verify(f"{head}.{payload}.{base64url(signature)}", SIGNERS["PS256"].jwk())


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "HS256", "HS512", "EdDSA", "ES256K", "es256", "", 1, None, ["ES256"]]
)
def test_an_algorithm_that_is_not_on_the_list_is_refused_before_any_key(algorithm: object):
    with pytest.raises(JwsHeaderError, match="alg"):
        parse(SIGNERS["ES256"].sign({}, alg=algorithm))


@pytest.mark.parametrize("name", ["crit", "b64", "jku", "jwk", "x5u", "x5c", "x5t", "enc", "zip", "cty", "nonce"])
def test_a_header_member_that_the_caller_does_not_name_is_refused(name: str):
    with pytest.raises(JwsHeaderError, match=name):
        parse(SIGNERS["ES256"].sign({}, **{name: ["exp"]}))


@pytest.mark.parametrize(
    "typ", ["", "jwt", "JWT ", "wit+jwt", "stepgrant+jwt", "dpop+jwt", "application/jwt", 1, ["JWT"]]
)
def test_another_typ_is_refused(typ: object):
    with pytest.raises(JwsHeaderError, match="typ"):
        parse(SIGNERS["ES256"].sign({}, typ=typ))


def test_a_typ_of_null_is_not_an_absent_one():
    head = base64url(b'{"alg":"ES256","typ":null}')
    with pytest.raises(JwsHeaderError, match="typ"):
        parse(f"{head}.e30.AA")


@pytest.mark.parametrize("kid", ["", "k" * 257, 1, ["one"], {}])
def test_a_kid_that_is_no_bounded_string_is_refused(kid: object):
    with pytest.raises(JwsHeaderError, match="kid"):
        parse(SIGNERS["ES256"].sign({}, kid=kid))
    with pytest.raises(InvalidInputError, match="kid"):
        parse_key(SIGNERS["ES256"].jwk(kid=kid), uses=SIG)


def test_the_size_is_bounded_before_anything_is_decoded():
    token = SIGNERS["ES256"].sign({})
    with pytest.raises(JwsMalformedError, match="more than"):
        parse(token, max_bytes=len(token) - 1)


EC, RSA = SIGNERS["ES256"].jwk(), SIGNERS["RS256"].jwk()
POINT = SIGNERS["ES384"].jwk()


@pytest.mark.parametrize(
    ("jwk", "what"),
    [
        ([], "object"),
        ({}, "kty"),
        ({"kty": "oct", "k": "AAAA"}, "secret"),
        ({"kty": "OKP", "crv": "Ed25519", "x": "AA"}, "kty"),
        ({**EC, "d": "AA"}, "secret"),
        ({**RSA, "p": "AA"}, "secret"),
        ({**EC, "use": "enc"}, "use"),
        ({**EC, "use": ["sig"]}, "use"),
        ({**EC, "use": "jwt-svid"}, "use"),
        ({**EC, "key_ops": ["sign"]}, "key_ops"),
        ({**EC, "key_ops": ["verify", "sign"]}, "key_ops"),
        ({**EC, "key_ops": "verify"}, "key_ops"),
        ({**EC, "alg": "ES384"}, "alg"),
        ({**EC, "alg": "RS256"}, "alg"),
        ({**EC, "alg": None}, "alg"),
        ({**RSA, "alg": "ES256"}, "alg"),
        ({**RSA, "alg": "HS256"}, "alg"),
        ({**RSA, "alg": "RSA-OAEP"}, "alg"),
        ({**RSA, "alg": ["RS256"]}, "alg"),
        ({**EC, "crv": "P-384"}, "bytes each"),
        ({**EC, "crv": "secp256k1"}, "crv"),
        ({**EC, "crv": ["P-256"]}, "crv"),
        ({**EC, "x": EC["y"]}, "point"),
        ({**EC, "x": EC["x"] + "="}, "base64url"),
        ({**EC, "x": 1}, "bytes each"),
        ({**POINT, "crv": "P-256"}, "bytes each"),
        ({**RSA, "n": integer(rsa_key(1024).public_key().public_numbers().n)}, "1024 bits"),
        ({**RSA, "n": integer(2**8192 + 1)}, "8193 bits|as few"),
        ({**RSA, "n": base64url(b"\0" + bytes(8))}, "few"),
        ({**RSA, "e": integer(2)}, "no RSA key"),
        ({**RSA, "e": integer(1)}, "no RSA key"),
        ({**RSA, "e": integer(2**32 + 1)}, "exponent"),
        ({**RSA, "e": ""}, "few"),
    ],
    ids=str,
)  # fmt: skip
def test_a_jwk_that_is_no_public_key_for_verifying_is_refused(jwk: object, what: str):
    with pytest.raises(InvalidInputError, match=what):
        parse_key(jwk, uses=SIG)


def test_a_key_does_not_show_in_a_repr():
    assert "PublicKey" not in repr(parse_key(EC, uses=SIG)).removeprefix("VerificationKey")


def test_an_rsa_key_whose_primes_can_be_found_is_refused():
    """ROCA, CVE-2017-15361: the modulus is a power of 65537 modulo the product of the first primes."""
    product = math.prod(prime for prime in range(2, 702) if all(prime % smaller for smaller in range(2, prime)))
    modulus = pow(65537, 1234, product)
    modulus += -(-(2**2047) // product) * product
    jwk = {"kty": "RSA", "n": integer(modulus), "e": "AQAB"}
    with pytest.raises(InvalidInputError, match="CVE-2017-15361"):
        parse_key(jwk, uses=frozenset({None}))
