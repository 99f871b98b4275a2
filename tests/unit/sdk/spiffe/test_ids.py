"""SPIFFE IDs: what is one, byte for byte, and what is none (SPIFFE-ID, sections 2.1 to 2.3)."""

from __future__ import annotations

import string

import pytest

from stepgrant.errors import InvalidIdError
from stepgrant.spiffe.ids import MAX_ID_BYTES, SpiffeId, parse_spiffe_id
from tests.kit.not_ids import NOT_SPIFFE_IDS

TRUST_DOMAIN_CHARACTERS = set(string.ascii_lowercase + string.digits + "._-")
PATH_CHARACTERS = set(string.ascii_letters + string.digits + "._-")


@pytest.mark.parametrize("number", range(256))
def test_each_of_256_characters_in_a_trust_domain(number: int) -> None:
    character = chr(number)
    text = f"spiffe://a{character}b/path"
    if character in TRUST_DOMAIN_CHARACTERS:
        assert str(parse_spiffe_id(text)) == text
    elif character == "/":
        assert parse_spiffe_id(text) == SpiffeId("a", "/b/path")
    else:
        with pytest.raises(InvalidIdError):
            parse_spiffe_id(text)


@pytest.mark.parametrize("number", range(256))
def test_each_of_256_characters_in_a_path(number: int) -> None:
    character = chr(number)
    text = f"spiffe://td/a{character}b"
    if character in PATH_CHARACTERS | {"/"}:
        assert str(parse_spiffe_id(text)) == text
    else:
        with pytest.raises(InvalidIdError):
            parse_spiffe_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://td",
        "spiffe://td/a",
        "spiffe://td/a/b/c",
        "spiffe://td/A.b_c-d/...",
        "spiffe://1.2.3.4/a",
        "spiffe://_-./a",
        "spiffe://td/..a/a..",
    ],
)
def test_an_id_comes_back_as_it_went_in(text: str) -> None:
    parsed = parse_spiffe_id(text)
    assert str(parsed) == text
    assert f"spiffe://{parsed.trust_domain}{parsed.path}" == text


@pytest.mark.parametrize("text", NOT_SPIFFE_IDS)
def test_id_04_what_is_no_spiffe_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidIdError):
        parse_spiffe_id(text)


def test_a_trust_domain_has_at_most_255_bytes() -> None:
    assert parse_spiffe_id(f"spiffe://{'a' * 255}/x").trust_domain == "a" * 255
    with pytest.raises(InvalidIdError, match="255"):
        parse_spiffe_id(f"spiffe://{'a' * 256}/x")


def test_an_id_has_at_most_2048_bytes() -> None:
    longest = "spiffe://td/" + "a" * (MAX_ID_BYTES - len("spiffe://td/"))
    assert len(str(parse_spiffe_id(longest))) == 2048
    with pytest.raises(InvalidIdError, match="2048"):
        parse_spiffe_id(longest + "a")


def test_an_id_equals_no_text_and_compares_by_bytes() -> None:
    parsed: object = parse_spiffe_id("spiffe://td/a")
    assert parsed != "spiffe://td/a"
    assert parsed == SpiffeId("td", "/a")
    assert parsed != parse_spiffe_id("spiffe://td/A")


def test_the_error_names_the_field_and_not_the_value() -> None:
    with pytest.raises(InvalidIdError, match="the verifier of orders") as error:
        parse_spiffe_id("spiffe://td/a?secret", what="the verifier of orders")
    assert "secret" not in str(error.value)
