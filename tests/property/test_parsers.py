"""Whatever bytes come from outside, each parser makes a value of them or refuses them by its own error, and nothing else.

Work and memory are bounded by construction: each parser refuses what is larger than its bound before it looks at it, and
what it does with the rest is linear in its size, or counted (`MAX_CHAIN` certificates, `MAX_AUTHORITIES`, `MAX_VALUES`).
Messages of agents, resources and operators go over the wire in `faults/test_malformed.py` (TR-05).
"""

from __future__ import annotations

import base64
import json
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from stepgrant._wire import read_answer
from stepgrant._wire_feed import to_feed_event
from stepgrant.calls import HttpCalls, HttpRoute
from stepgrant.dpop import InstanceKey, ReplayCache, make_proof, verify_open_proof, verify_proof
from stepgrant.errors import (
    ArgumentsInvalidError,
    GrantRefusedError,
    InvalidBundleError,
    InvalidIdError,
    InvalidInputError,
    InvalidSvidError,
    ProtocolError,
)
from stepgrant.grant import from_payload
from stepgrant.intent import MAX_ARGUMENTS_BYTES, from_python, parse_object
from stepgrant.jose import parse_foreign_jws, parse_key, verify_foreign_jws
from stepgrant.jwk import parse_public_der, parse_public_jwk
from stepgrant.jws import parse_jws, sign_jws
from stepgrant.spiffe.bundles import (
    MAX_BUNDLE_BYTES,
    MAX_CERTIFICATE_BYTES,
    BundleSet,
    X509Bundle,
    bundle_from_der,
    bundle_from_jwks,
    bundle_from_pem,
    jwt_bundle_from_jwks,
)
from stepgrant.spiffe.ids import MAX_ID_BYTES, parse_spiffe_id
from stepgrant.spiffe.jwt import MAX_JWT_SVID_BYTES, verify_jwt_svid
from stepgrant.spiffe.x509 import MAX_CHAIN_BYTES, chain_from_der, chain_from_pem, verify_x509_svid
from stepgrant.v1 import agent_pb2, verifier_pb2
from stepgrant_gateway.core.errors import PolicyRefusedError
from stepgrant_gateway.policy.json_schema import SchemaError, read_schema
from stepgrant_gateway.policy.tool_documents import MAX_DOCUMENT_BYTES, read_tool_document
from tests.faults.malformed import mangled
from tests.kit.ca import BOTH_SIDES, TestAuthority
from tests.kit.clock import START
from tests.kit.enforcement import ResourceDouble
from tests.kit.foreign import ForeignSigner
from tests.kit.heart import SUPPORT
from tests.kit.mutations import as_json, json_values, mutated, rewritten
from tests.kit.paths import issue

AUTHORITY = TestAuthority(intermediate=True)
SVID = AUTHORITY.issue("agent/support")
ROOTS = BundleSet((AUTHORITY.bundle(),))
SIGNER = ForeignSigner.of("ES256")
AUDIENCE = "spiffe://acme.org/stepgrant"
INSTANCE = InstanceKey.generate()
GRANT = "aaaa.bbbb.cccc"
SECONDS = int(START.timestamp())
JWKS = {
    "keys": [
        {"use": "x509-svid", "kty": "EC", "x5c": [base64.b64encode(SVID.chain_der[1]).decode()]},
        SIGNER.jwk(use="jwt-svid"),
        ForeignSigner.of("RS256", "two").jwk(use="jwt-svid", alg="RS256"),
    ],
    "spiffe_sequence": 3,
    "spiffe_refresh_hint": 300,
}
JWT_BUNDLE = bundle_from_jwks("acme.org", as_json(JWKS)).jwt_bundle
CLAIMS = {
    "sub": "spiffe://acme.org/agent/support",
    "aud": [AUDIENCE],
    "exp": SECONDS + 60,
    "nbf": SECONDS,
    "iat": SECONDS,
}
PAYLOAD = json.loads(base64.urlsafe_b64decode(ResourceDouble().gateway.mint().split(".")[1] + "=="))
CALLS = HttpCalls(
    [HttpRoute("orders.refund", "POST", "/orders/{order_id}/refund", query={"amount": float, "dry": bool})]
)
DOCUMENTS = [json.loads(path.read_bytes()) for path in sorted((SUPPORT / "tools").glob("*.json"))]


def leaf(der: bytes) -> object:
    return verify_x509_svid(der, SVID.chain_der[1:], ROOTS, START)


def authority(der: bytes) -> object:
    return verify_x509_svid(SVID.leaf_der, (der,), BundleSet((X509Bundle("acme.org", (der,)),)), START)


def tools(content: bytes) -> object:
    return [read_schema(tool.input_schema) for tool in read_tool_document("tools.json", content).values()]


def request(data: bytes) -> object:
    path, query, body = (*data.split(b"?", 2), b"", b"")[:3]
    return CALLS.read("POST", path.decode("latin-1"), query.decode("latin-1"), body, "application/json")


def own_jws(token: bytes) -> object:
    return parse_jws(token.decode("latin-1"), typ="t", members=frozenset({"alg", "kid", "typ"}), max_bytes=4096)


def foreign_jws(token: bytes) -> object:
    members, types = frozenset({"kid", "typ"}), frozenset({None, "JWT"})
    jws = parse_foreign_jws(token.decode("latin-1"), members=members, types=types, max_bytes=4096)
    return verify_foreign_jws(jws, parse_key(SIGNER.jwk(), uses=frozenset({None})))


def jwt_svid(token: str) -> object:
    return verify_jwt_svid(token, AUDIENCE, BundleSet(jwt_bundles=(JWT_BUNDLE,)), START)


def proof(token: str) -> None:
    verify_proof(token, htm="POST", htu="https://a/b", grant=GRANT, now=START, jkt=INSTANCE.jkt, replay=ReplayCache())


@dataclass(frozen=True)
class Parser:
    """What reads bytes, what it may raise, valid bytes, and the most bytes that it looks at (None: bounded by its caller)."""

    reads: Callable[[bytes], object]
    refuses: tuple[type[Exception], ...]
    seeds: Sequence[bytes]
    most: int | None = None
    padding: bytes = field(default=b"")
    """What may stand behind a valid document without changing it."""


PROOF = make_proof(INSTANCE, htm="POST", htu="https://a/b", grant=GRANT, now=START, jti="1").encode()
JWT_SVID = SIGNER.sign(CLAIMS).encode()
PARSERS = {
    "SPIFFE ID": Parser(
        lambda data: parse_spiffe_id(data.decode("latin-1")), (InvalidIdError,),
        (b"spiffe://acme.org/agent/support", b"spiffe://a.b-c_d/..a/A"), MAX_ID_BYTES,
    ),
    "chain in PEM": Parser(chain_from_pem, (InvalidSvidError,), (SVID.chain_pem,), MAX_CHAIN_BYTES, b"\n"),
    "chain in DER": Parser(chain_from_der, (InvalidSvidError,), (b"".join(SVID.chain_der),), MAX_CHAIN_BYTES),
    "leaf": Parser(leaf, (InvalidSvidError,), (SVID.leaf_der, AUTHORITY.issue("x", dns=["a"]).leaf_der), MAX_CERTIFICATE_BYTES),
    "authority": Parser(authority, (InvalidSvidError, InvalidBundleError), (SVID.chain_der[1],), MAX_CERTIFICATE_BYTES),
    "bundle in PEM": Parser(
        lambda data: bundle_from_pem("acme.org", data), (InvalidBundleError,), (AUTHORITY.bundle().pem,), MAX_BUNDLE_BYTES, b"\n"
    ),
    "bundle in DER": Parser(
        lambda data: bundle_from_der("acme.org", data), (InvalidBundleError,), AUTHORITY.bundle().authorities, MAX_BUNDLE_BYTES
    ),
    "bundle document": Parser(
        lambda data: bundle_from_jwks("acme.org", data), (InvalidBundleError,), (as_json(JWKS),), MAX_BUNDLE_BYTES, b" "
    ),
    "JWT bundle": Parser(
        lambda data: jwt_bundle_from_jwks("acme.org", data), (InvalidBundleError,),
        (as_json({"keys": [SIGNER.jwk()]}),), MAX_BUNDLE_BYTES, b" ",
    ),
    "own token": Parser(own_jws, (InvalidInputError,), (SIGNER.sign(CLAIMS, typ="t").encode(),), 4096),
    "token of others": Parser(foreign_jws, (InvalidInputError,), (JWT_SVID,), 4096),
    "JWT-SVID": Parser(lambda data: jwt_svid(data.decode("latin-1")), (InvalidSvidError,), (JWT_SVID,), MAX_JWT_SVID_BYTES),
    "DPoP proof": Parser(lambda data: proof(data.decode("latin-1")), (GrantRefusedError,), (PROOF,), 4096),
    "public key": Parser(parse_public_der, (InvalidInputError,), (INSTANCE.public_der,), 256),
    "possession": Parser(
        lambda data: verify_open_proof(INSTANCE.public_der, data, b"m"), (InvalidInputError,), (INSTANCE.sign_es256_raw(b"m"),), 64
    ),
    "claims of a grant": Parser(from_payload, (GrantRefusedError,), (as_json(PAYLOAD),)),
    "arguments": Parser(
        lambda data: parse_object(data.decode("latin-1")), (ArgumentsInvalidError,),
        (b'{"order_id": "ord_1", "amount": 40.5, "notes": [null, true, {"a": "\\u00e9"}]}',), MAX_ARGUMENTS_BYTES, b" ",
    ),
    "tool document": Parser(
        tools, (PolicyRefusedError, SchemaError), tuple(map(as_json, DOCUMENTS)), MAX_DOCUMENT_BYTES, b" "
    ),
    "HTTP request": Parser(request, (GrantRefusedError,), (b'/orders/ord_1/refund?amount=4.5&dry=true?{"reason": "late"}',)),
}  # fmt: skip


@cache
def readable(name: str) -> bool:
    """True if every seed is read: or the mutations would be of nothing."""
    return all(_read(name, seed) is None for seed in PARSERS[name].seeds)


def _read(name: str, data: bytes) -> Exception | None:
    try:
        PARSERS[name].reads(data)
    except PARSERS[name].refuses as refusal:
        return refusal
    return None


@pytest.mark.parametrize("name", PARSERS)
def test_bytes_are_a_value_or_a_refusal(name: str) -> None:
    """INV-11: mutations of what is valid, and bytes that never were anything."""
    assert readable(name)

    @given(mutated(PARSERS[name].seeds) | st.binary(max_size=200))
    def holds(data: bytes) -> None:
        _read(name, data)

    holds()


SIGNED: dict[str, tuple[Callable[[Any], object], tuple[type[Exception], ...], Any]] = {
    "bundle document": (lambda value: bundle_from_jwks("acme.org", as_json(value)), (InvalidBundleError,), JWKS),
    "JWK of ours": (parse_public_jwk, (InvalidInputError,), {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}),
    "JWK of others": (
        lambda value: parse_key(value, uses=frozenset({None, "sig", "jwt-svid"})), (InvalidInputError,), JWKS["keys"][2],
    ),
    "claims of a JWT-SVID": (lambda value: jwt_svid(SIGNER.sign(as_json(value))), (InvalidSvidError,), CLAIMS),
    "header of a JWT-SVID": (
        lambda value: jwt_svid(SIGNER.sign(CLAIMS, **(value if isinstance(value, dict) else {"x": value}))),
        (InvalidSvidError,), {"kid": "one", "typ": "JWT", "crit": ["b64"], "b64": False},
    ),
    "claims of a DPoP proof": (
        lambda value: proof(INSTANCE._sign_proof(as_json(value))), (GrantRefusedError,),
        {"jti": "1", "htm": "POST", "htu": "https://a/b", "iat": SECONDS, "ath": "x"},
    ),
    "header of a DPoP proof": (
        lambda value: proof(sign_jws({"typ": "dpop+jwt", "jwk": value}, b"{}", INSTANCE._private)), (GrantRefusedError,),
        {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43},
    ),
    "claims of a grant": (lambda value: from_payload(as_json(value)), (GrantRefusedError,), PAYLOAD),
    "tool document": (lambda value: tools(as_json(value)), (PolicyRefusedError, SchemaError), DOCUMENTS[0]),
    "schema of a tool": (
        lambda value: read_schema(from_python(value)), (SchemaError, ArgumentsInvalidError),
        DOCUMENTS[0]["tools"][0]["inputSchema"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SIGNED)
def test_a_document_with_other_parts_is_a_value_or_a_refusal(name: str) -> None:
    """INV-11: whole and well signed, so that what is inside is looked at; parts of it are of other types, gone or new."""
    reads, refuses, seed = SIGNED[name]

    @given(rewritten([seed]) | json_values)
    def holds(value: Any) -> None:
        with suppress(*refuses):
            reads(value)

    holds()


EXTENSIONS = {
    "subject alternative name": "2.5.29.17",
    "basic constraints": "2.5.29.19",
    "key usage": "2.5.29.15",
    "extended key usage": "2.5.29.37",
    "name constraints": "2.5.29.30",
    "authority key identifier": "2.5.29.35",
    "policy constraints": "2.5.29.36",
    "nobody's": "1.2.3.4",
}
BODIES = (
    x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier("spiffe://acme.org/agent/support"), x509.DNSName("a.org")]
    ).public_bytes(),
    x509.BasicConstraints(ca=True, path_length=1).public_bytes(),
    x509.ExtendedKeyUsage(BOTH_SIDES).public_bytes(),
    x509.NameConstraints([x509.DNSName("a.org")], None).public_bytes(),
    bytes.fromhex("03020780"),
)


@pytest.mark.parametrize("name", EXTENSIONS)
def test_a_well_signed_certificate_with_any_extension_is_an_svid_or_refused(name: str) -> None:
    """INV-11: in the leaf and in an intermediate; signatures do not keep these bytes from being read."""
    oid = x509.ObjectIdentifier(EXTENSIONS[name])
    root, key = issue("root"), ec.generate_private_key(ec.SECP256R1())

    @given(mutated(BODIES) | st.binary(max_size=40), st.booleans(), st.booleans())
    def holds(body: bytes, critical: bool, of_leaf: bool) -> None:
        odd: Any = {
            "extra": [(x509.UnrecognizedExtension(oid, body), critical)],
            "ca": None if name == "basic constraints" else not of_leaf,
            "usage": name != "key usage",
        }
        uri = None if name == "subject alternative name" else "spiffe://acme.org/agent/support"
        above = root.issue("above", key=key) if of_leaf else root.issue("above", key=key, **odd)
        below = above.issue("leaf", key=key, **{"ca": False, "uri": uri, **(odd if of_leaf else {})})
        with suppress(InvalidSvidError):
            verify_x509_svid(below.der, [above.der], BundleSet((X509Bundle("acme.org", (root.der,)),)), START)

    holds()


@pytest.mark.parametrize("message", [agent_pb2.GatewayMessage, verifier_pb2.WatchEvent], ids=lambda kind: kind.__name__)
def test_what_a_gateway_sends_is_a_value_or_a_refusal(message: Any) -> None:
    """INV-11: of the SDK's side, whose peer is proven and may be of another release."""
    reads: Callable[[Any], object] = read_answer if message is agent_pb2.GatewayMessage else to_feed_event

    @given(mangled(message.DESCRIPTOR))
    def holds(data: bytes) -> None:
        with suppress(DecodeError, ProtocolError):
            reads(message.FromString(data))

    holds()


@pytest.mark.parametrize("name", [name for name, parser in PARSERS.items() if parser.padding])
def test_what_is_larger_than_its_bound_is_refused_and_what_is_as_large_is_read(name: str) -> None:
    parser = PARSERS[name]
    assert parser.most is not None
    padded = parser.seeds[0] + parser.padding * (parser.most - len(parser.seeds[0]))
    assert _read(name, padded) is None
    assert _read(name, padded + parser.padding) is not None


SHAPES = (b"[", b"{\"a\":", b"{},", b"[],", b'"",', b"\"\\u0061\\ud83d\"", b"1,", b"\x30\x80", b"\x30\x00", b"-----BEGIN CERTIFICATE-----\n",
          b"AAAA", b"a.", b"\\", b"/a")  # fmt: skip
LARGE = 64 * 1024


@pytest.mark.parametrize("name", PARSERS)
def test_memory_is_bounded_by_a_multiple_of_the_size(name: str) -> None:
    """What looks worst: brackets, escapes, headers without end; up to 64 KiB, inside a list of keys or tools as well."""
    most = min(PARSERS[name].most or LARGE, LARGE)
    for shape in SHAPES:
        for head, tail in ((b"", b""), (b'{"keys":[', b"{}]}"), (b'{"tools":[', b"{}]}")):
            data = (head + shape * (most // len(shape)))[: most - len(tail)] + tail
            tracemalloc.start()
            with suppress(*PARSERS[name].refuses):
                PARSERS[name].reads(data)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 64 * most + LARGE, (shape, head)
