"""What the gateway signs for the feed."""

import hashlib
from datetime import timedelta

from stepgrant.feed import checkpoint_message, key_message, unix_ms
from stepgrant.ids import ulid_bytes
from tests.kit.clock import START
from tests.kit.enforcement import INSTANCE


def test_a_key_is_signed_with_its_id_and_its_end():
    expected = b"stepgrant.key.v1\0" + hashlib.sha256(b"k").digest() + hashlib.sha256(b"{}").digest()
    assert key_message("k", "{}", START) == expected + (1_795_262_400_000).to_bytes(8, "big")


def test_a_checkpoint_is_signed_with_its_place():
    expected = b"stepgrant.checkpoint.v1\0" + ulid_bytes(INSTANCE) + (7).to_bytes(8, "big") + b"h" * 32
    assert checkpoint_message(INSTANCE, 7, b"h" * 32) == expected


def test_milliseconds_are_exact():
    assert unix_ms(START + timedelta(milliseconds=999, microseconds=999)) == 1_795_262_400_999
