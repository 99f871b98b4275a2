"""The shape of compact JWS: what `parse_jws` and `parse_foreign_jws` share. More of it stands in test_jws.py."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepgrant.compact import JwsMalformedError, base64url, from_base64url, parse_members, split_jws


@given(st.binary(max_size=200))
def test_a_segment_is_base64url_without_padding(data: bytes):
    assert base64url(data) == base64.urlsafe_b64encode(data).decode().rstrip("=")
    assert from_base64url(base64url(data)) == data


def test_the_parts_come_apart_unjudged():
    parts = split_jws(f"{base64url(b'{}')}.{base64url(b'p')}.{base64url(b's')}", 20)
    assert (parts.header, parts.payload, parts.signature) == ({}, b"p", b"s")
    assert parts.signing_input == b"e30.cA"


@pytest.mark.parametrize(
    "document",
    [
        b'{"a":1,"a":1}',
        b'{"b":{"a":1,"\\u0061":2}}',
        b'{"exp":NaN}',
        b'{"exp":-Infinity}',
        b'{"sub":"\\ud800"}',
        b'{"sub":"\xed\xa0\x80"}',
        b'{"exp":' + b"9" * 5000 + b"}",
        b'{"a":' + b"[" * 100_000,
        b"\xef\xbb\xbf{}",
        b"null",
        b"",
    ],
    ids=["twice", "twice deep", "NaN", "infinity", "surrogate", "CESU", "digits", "depth", "BOM", "null", "empty"],
)
def test_what_is_no_strict_object_is_malformed(document: bytes):
    with pytest.raises(JwsMalformedError):
        parse_members(document)


def test_an_escaped_character_that_can_be_encoded_stands():
    assert parse_members(b'{"sub":"\\u00e9\\ud83d\\ude00"}') == {"sub": "é😀"}
