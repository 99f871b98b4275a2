"""parse_spiffe_id against an independent statement of the grammar, on generated and on damaged IDs."""

from __future__ import annotations

import string

from hypothesis import example, given
from hypothesis import strategies as st

from stepgrant.errors import InvalidIdError
from stepgrant.spiffe.ids import SpiffeId, parse_spiffe_id

TRUST_DOMAIN = string.ascii_lowercase + string.digits + "._-"
SEGMENT = string.ascii_letters + string.digits + "._-"

trust_domains = st.text(TRUST_DOMAIN, min_size=1, max_size=255)
segments = st.text(SEGMENT, min_size=1, max_size=20).filter(lambda segment: segment not in {".", ".."})
ids = st.builds(
    lambda domain, path: "spiffe://" + "/".join([domain, *path]), trust_domains, st.lists(segments, max_size=8)
)
near = st.text("spife:/.%?#@\n ABCabc-_09\u00e4", max_size=30)


def is_spiffe_id(text: str) -> bool:
    """The grammar once more, character by character."""
    if len(text) > 2048 or not text.startswith("spiffe://"):
        return False
    domain, *path = text[len("spiffe://") :].split("/")
    return (
        1 <= len(domain) <= 255
        and all(character in TRUST_DOMAIN for character in domain)
        and all(
            segment not in {"", ".", ".."} and all(character in SEGMENT for character in segment) for segment in path
        )
    )


def parsed(text: str) -> SpiffeId | None:
    try:
        return parse_spiffe_id(text)
    except InvalidIdError:
        return None


@given(ids)
def test_every_id_parses_to_itself(text: str) -> None:
    assert str(parse_spiffe_id(text)) == text


@given(st.one_of(st.text(), near.map("spiffe://".__add__), near))
@example("spiffe://td/a\n")
@example("spiffe://td/")
def test_exactly_the_grammar_parses(text: str) -> None:
    found = parsed(text)
    assert (found is not None) == is_spiffe_id(text)
    assert found is None or str(found) == text


@given(ids, st.integers(min_value=0), st.characters())
def test_a_damaged_id_is_another_id_or_none(text: str, place: int, character: str) -> None:
    at = place % (len(text) + 1)
    damaged = text[:at] + character + text[at:]
    found = parsed(damaged)
    assert (found is not None) == is_spiffe_id(damaged)
    assert found != parse_spiffe_id(text)
