"""The memory of verifications that came out well never changes an answer: cache on against cache off, request by request.

What a decision hangs on is drawn at random and again and again from a few values each: leaf, intermediates, bundle of
each trust domain, time, token. What is remembered under one of them must not answer under another.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from stepgrant.errors import InvalidInputError
from stepgrant.jose import parse_key
from stepgrant.spiffe.bundles import BundleSet, X509Bundle
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.jwt_bundle import JwtBundle
from stepgrant_gateway.core.principal import Peer
from stepgrant_gateway.identity.bearers import JwtSvidBearers
from stepgrant_gateway.identity.discovery import OidcIssuer
from stepgrant_gateway.identity.jwks import KeySet, parse_key_set
from stepgrant_gateway.identity.mapping import Mapped
from stepgrant_gateway.identity.oidc import Trust
from stepgrant_gateway.identity.oidc_bearers import OidcBearers
from stepgrant_gateway.identity.oidc_settings import WorkloadIssuer
from stepgrant_gateway.identity.peers import PeerVerifier
from tests.kit.clock import START, ManualClock
from tests.kit.foreign import ForeignSigner
from tests.kit.mutations import as_json
from tests.kit.paths import Issued, issue

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
OURS, THEIRS = "acme.org", "partner.org"
AUDIENCE = "spiffe://acme.org/gateway"
TIMES = [START + HOUR * hours + SECOND * more for hours in range(-1, 4) for more in (-1, 0, 1)]
Evidence = dict[str, list[bytes]]
ISSUER = "https://ci.acme.test"
MAPPED = Mapped(parse_spiffe_id("spiffe://acme.org/ci"), "spiffe://acme.org/ci/{sub}", {"owner": "acme"})


@dataclass
class World:
    """What may be asked: evidence, tokens, and the bundles and times under which."""

    chance: random.Random
    evidence: list[Evidence] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    x509_bundles: dict[str, list[X509Bundle]] = field(default_factory=dict)
    jwt_bundles: dict[str, list[JwtBundle]] = field(default_factory=dict)
    runners: list[str] = field(default_factory=list)
    """Tokens of a CI system, and its key sets."""
    key_sets: list[KeySet | None] = field(default_factory=list)
    bundles: BundleSet = field(default_factory=BundleSet)
    keys: KeySet | None = None
    now: datetime = START

    def turn(self) -> None:
        """One or two of the things that a decision hangs on become others."""
        if self.chance.random() < 0.2:
            self.now = self.chance.choice(TIMES)
        if self.chance.random() < 0.2:
            mine = [self.chance.choice([*self.x509_bundles[domain], None]) for domain in (OURS, THEIRS)]
            jwts = [self.chance.choice([*self.jwt_bundles[domain], None]) for domain in (OURS, THEIRS)]
            self.bundles = BundleSet(tuple(filter(None, mine)), jwt_bundles=tuple(filter(None, jwts)))
        if self.chance.random() < 0.2:
            self.keys = self.chance.choice(self.key_sets)

    def trust_in(self, _: str) -> Trust:
        """As `Issuers`."""
        if self.keys is None:
            raise InvalidInputError("its keys are not to be had")
        return Trust(AUDIENCE, frozenset(), self.keys)

    def missing_key(self, _: str) -> bool:
        """As `Issuers`."""
        return False


def world(seed: int) -> World:
    built = World(random.Random(seed))
    roots = {domain: [issue("root", not_after=START + HOUR * end) for end in (2, 9)] for domain in (OURS, THEIRS)}
    for domain, (old, new) in roots.items():
        sets = [(old,), (new,), (old, new), (new, old), ()]
        built.x509_bundles[domain] = [X509Bundle(domain, tuple(one.der for one in authorities)) for authorities in sets]
        # The same authorities under the other's name: whose bundle it is counts.
        built.x509_bundles[domain].append(
            X509Bundle(domain, tuple(one.der for one in roots[THEIRS if domain == OURS else OURS]))
        )
        for root in (old, new):
            built.evidence += chains(root, domain)
    built.evidence += chains(roots[THEIRS][0], OURS)
    keys = {domain: [ForeignSigner.of("ES256", "one"), ForeignSigner.of("ES256", "one")] for domain in (OURS, THEIRS)}
    for domain, signers in keys.items():
        parsed = [parse_key(one.jwk(use="jwt-svid"), uses=frozenset({"jwt-svid"})) for one in signers]
        built.jwt_bundles[domain] = [JwtBundle(domain, tuple(one)) for one in ([parsed[0]], [parsed[1]], [])]
        built.tokens += [signed(signer, f"spiffe://{domain}/agent", hours) for signer in signers for hours in (1, 2)]
    for signer in (ours := ForeignSigner.of("ES256", "one"), other := ForeignSigner.of("ES256", "one")):
        built.key_sets.append(parse_key_set(as_json({"keys": [signer.jwk(use="sig")]})))
        for times in ({}, {"nbf": 1}, {"iat": 1}, {"nbf": 0, "iat": 2}):
            at = {name: int((START + HOUR * hours).timestamp()) for name, hours in {**times, "exp": 3}.items()}
            runner = {"iss": ISSUER, "sub": "42", "aud": AUDIENCE, "owner": "acme", **at}
            built.runners += [signer.sign(runner), signer.sign({**runner, "owner": "mallory"})]
    built.key_sets += [parse_key_set(as_json({"keys": [one.jwk(kid=f"{one.kid}-")]})) for one in (ours, other)] + [None]
    built.tokens.append(signed(keys[THEIRS][0], f"spiffe://{OURS}/agent", 2))
    return built


def chains(root: Issued, domain: str) -> list[Evidence]:
    """A leaf with its chain, without it, with another's, with itself in it; leaves that end and begin; one that is a CA."""
    above, other = root.issue("above", not_after=START + HOUR * 3), root.issue("above")
    uri = f"spiffe://{domain}/agent"
    leaf = above.issue("leaf", ca=False, uri=uri)
    short = above.issue("leaf", ca=False, uri=uri, not_after=START + HOUR)
    late = above.issue("leaf", ca=False, uri=uri, not_before=START + HOUR)
    wrong = above.issue("leaf", uri=uri)
    return [
        shown(leaf, above), shown(leaf), shown(leaf, other), shown(leaf, leaf, above), shown(leaf, above, other),
        shown(short, above), shown(late, above), shown(wrong, above),
    ]  # fmt: skip


def shown(leaf: Issued, *chain: Issued) -> Evidence:
    pems = [x509.load_der_x509_certificate(one.der).public_bytes(Encoding.PEM) for one in (leaf, *chain)]
    return {"x509_pem_cert": [pems[0]], "x509_pem_cert_chain": [b"".join(pems[1:])]}


def signed(signer: ForeignSigner, subject: str, hours: int) -> str:
    at = int(START.timestamp())
    return signer.sign({"sub": subject, "aud": [AUDIENCE], "nbf": at, "exp": at + 3600 * hours})


class Now(ManualClock):
    """The clock of the world."""

    def __init__(self, built: World) -> None:
        super().__init__()
        self._built = built

    def now(self) -> datetime:
        return self._built.now


def answer(verifier: Any, evidence: Any) -> Peer | str:
    try:
        found: Peer = verifier.verify(evidence)
    except InvalidInputError as refusal:
        return str(refusal)
    return found


def differences(built: World, requests: int, max_cached: int) -> tuple[list[str], int]:
    """Requests that are answered otherwise with the cache than without it; and how many were answered with a peer."""
    by_certificate = partial(PeerVerifier, lambda: built.bundles, lambda: built.now)
    by_token = partial(JwtSvidBearers, AUDIENCE, lambda: built.bundles, lambda: built.now)
    settings = [WorkloadIssuer(OidcIssuer(ISSUER, AUDIENCE), MAPPED)]
    by_runner = partial(OidcBearers, settings, cast("Any", built), Now(built))
    cached, bearers, runners = (make(max_cached=max_cached) for make in (by_certificate, by_token, by_runner))
    found, peers = [], 0
    for number in range(requests):
        built.turn()
        for kept, fresh, given in (
            (cached, by_certificate(max_cached=0), built.chance.choice(built.evidence)),
            (bearers, by_token(max_cached=0), built.chance.choice(built.tokens)),
            (runners, by_runner(max_cached=0), built.chance.choice(built.runners)),
        ):
            on, off = answer(kept, given), answer(fresh, given)
            peers += isinstance(off, Peer)
            if on != off:
                found.append(f"request {number} at {built.now}: {on} with the cache, {off} without")
    return found, peers


@pytest.mark.parametrize("max_cached", [3, 1000])
def test_the_cache_answers_as_verification_does(max_cached: int) -> None:
    """INV-11: no answer is another's, whether memory is short or long."""
    found, peers = differences(world(max_cached), 700, max_cached)
    assert found == []
    assert peers > 100


@pytest.mark.slow
def test_the_cache_answers_ten_thousand_requests_as_verification_does() -> None:
    found, peers = differences(world(1), 10_000, 100)
    assert found == []
    assert peers > 2_000
