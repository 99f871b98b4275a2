"""Sealing: only recipients read inputs, only the recorded input is read, and a destroyed key is the end of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from stepgrant_gateway.core.errors import ConfigError, EventInvalidError, LedgerBrokenError, NotAllowedError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.ledger import DataKey, Sealed, SealedInput
from stepgrant_gateway.storage.inputs import (
    MAX_RECIPIENTS,
    DigestSealer,
    InputOpener,
    RecipientSealer,
    make_recipient,
    recipient_from_pem,
)
from stepgrant_gateway.storage.memory import MemoryLedger
from tests.kit.chains import INSTANCE, OTHER, chain_of, counted_entropy, granted, started
from tests.kit.clock import START

PRIVATE, PUBLIC = make_recipient()
OTHER_PRIVATE, OTHER_PUBLIC = make_recipient()
INPUT = {
    "arguments": {"to": "jo@x.org", "amount": Decimal("98.70"), "body": "a secret word"},
    "parameters": {"customer": "jo@x.org", "ticket": "a secret word"},
    "purpose": "refund",
}
EVENT = Event(EventType.STEP_GRANTED, START, {}, input=INPUT)
SECRET = replace(EVENT, sensitive=frozenset({"body", "ticket"}))


def sealer(*pems: bytes) -> RecipientSealer:
    return RecipientSealer([recipient_from_pem(pem) for pem in pems or (PUBLIC,)], counted_entropy())


def parts(sealed: Sealed) -> tuple[SealedInput, DataKey, bytes]:
    assert sealed.input is not None
    assert sealed.key is not None
    return sealed.input, sealed.key, sealed.digest


def test_each_recipient_and_nobody_else_opens_an_input():
    sealed = parts(sealer(PUBLIC, OTHER_PUBLIC).seal(EVENT, INSTANCE, 7))
    for private in (PRIVATE, OTHER_PRIVATE):
        opened = InputOpener(private).open(*sealed)
        assert opened == {**INPUT, "arguments": {**INPUT["arguments"], "amount": 98.7}}
    with pytest.raises(NotAllowedError, match="no recipient"):
        InputOpener(make_recipient()[0]).open(*sealed)


def test_inv_14_two_equal_inputs_have_different_digests_and_the_salt_lies_under_the_seal():
    first, second = (sealer_of_one.seal(EVENT, INSTANCE, 7) for sealer_of_one in [sealer()] * 2)
    assert first.digest != second.digest
    kept, _, digest = parts(first)
    plain = json.dumps(InputOpener(PRIVATE).open(*parts(first)), sort_keys=True, separators=(",", ":")).encode()
    visible = kept.nonce + kept.ciphertext
    for start in range(len(visible) - 32):
        assert hashlib.sha256(visible[start : start + 32] + plain).digest() != digest


def test_an_input_moved_to_another_record_does_not_open():
    kept, key, digest = parts(sealer().seal(EVENT, INSTANCE, 7))
    for moved in (
        replace(kept, sequence=8),
        replace(kept, instance_id=OTHER),
        replace(kept, ciphertext=kept.ciphertext[:-1]),
    ):
        with pytest.raises(LedgerBrokenError, match="does not decrypt"):
            InputOpener(PRIVATE).open(moved, key, digest)


def test_inv_14_an_input_that_is_not_the_one_in_the_chain_is_refused():
    kept, key, _ = parts(sealer().seal(EVENT, INSTANCE, 7))
    with pytest.raises(LedgerBrokenError, match="not the one that the chain names"):
        InputOpener(PRIVATE).open(kept, key, bytes(32))


def test_sensitive_values_are_replaced_by_keyed_digests_equal_for_equal_values():
    opened = InputOpener(PRIVATE).open(*parts(sealer().seal(SECRET, INSTANCE, 7)))
    assert opened["arguments"]["to"] == "jo@x.org"
    assert opened["arguments"]["body"].keys() == {"hmac_sha256"}
    assert opened["arguments"]["body"] == opened["parameters"]["ticket"]
    assert "a secret word" not in json.dumps(opened)


def test_a_sensitive_claim_of_a_subject_is_replaced_and_an_argument_of_its_name_is_not():
    claims = {"body": "of the user", "team": "support"}
    event = replace(EVENT, input={**INPUT, "claims": claims}, sensitive=frozenset({"claims.body"}))
    opened = InputOpener(PRIVATE).open(*parts(sealer().seal(event, INSTANCE, 7)))
    assert opened["claims"]["body"].keys() == {"hmac_sha256"}
    assert (opened["claims"]["team"], opened["arguments"]["body"]) == ("support", "a secret word")


def test_keyed_digests_of_another_day_are_different():
    sealing = sealer()
    days = [SECRET, replace(SECRET, at=START + timedelta(days=1))]
    opened = [InputOpener(PRIVATE).open(*parts(sealing.seal(event, INSTANCE, 7))) for event in days]
    assert opened[0]["arguments"]["body"] != opened[1]["arguments"]["body"]


def test_a_day_has_one_key_and_the_key_never_goes_back():
    sealing = sealer()
    times = [START, START + timedelta(hours=1), START + timedelta(days=1), START - timedelta(hours=1)]
    keys = [parts(sealing.seal(replace(EVENT, at=at), INSTANCE, n))[1] for n, at in enumerate(times, 1)]
    assert [key.day for key in keys] == [date(2026, 11, 21)] * 2 + [date(2026, 11, 22)] * 2
    assert keys[0] is keys[1]
    assert keys[2] is keys[3]
    assert keys[0].key_id != keys[2].key_id


def test_the_input_is_in_the_store_only_in_sealed_form_and_gone_with_its_key():
    sealing, store = sealer(), MemoryLedger()
    records = chain_of(started(), granted(1))
    kept, key, digest = parts(sealing.seal(SECRET, INSTANCE, 2))
    store.append(records, [kept], [key])
    found = store.input_of(INSTANCE, 2)
    assert found is not None
    assert b"jo@x.org" not in found[0].ciphertext
    assert InputOpener(PRIVATE).open(*found, digest)["purpose"] == "refund"
    store.expire(START.date() + timedelta(days=1))
    assert store.input_of(INSTANCE, 2) is None


def test_without_recipients_only_a_digest_remains():
    sealing = DigestSealer(counted_entropy())
    first, second = sealing.seal(SECRET, INSTANCE, 1), sealing.seal(SECRET, INSTANCE, 1)
    assert (first.input, first.key) == (None, None)
    assert len(first.digest) == 32
    assert first.digest != second.digest


@pytest.mark.parametrize("value", [{"arguments": {"x": object()}}, {"x": float("inf")}, {"x": "a" * 300_000}])
def test_an_input_that_is_not_strict_bounded_json_is_refused(value):
    for sealing in (sealer(), DigestSealer(counted_entropy())):
        with pytest.raises(EventInvalidError):
            sealing.seal(replace(EVENT, input=value), INSTANCE, 1)


def test_recipients_are_some_different_x25519_keys():
    with pytest.raises(ConfigError):
        RecipientSealer([], counted_entropy())
    with pytest.raises(ConfigError):
        sealer(PUBLIC, PUBLIC)
    with pytest.raises(ConfigError):
        sealer(*(make_recipient()[1] for _ in range(MAX_RECIPIENTS + 1)))
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for pem in (b"", b"-----BEGIN PUBLIC KEY-----\n", public, PRIVATE):
        with pytest.raises(ConfigError):
            recipient_from_pem(pem)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for pem in (b"", private, PUBLIC):
        with pytest.raises(ConfigError):
            InputOpener(pem)
