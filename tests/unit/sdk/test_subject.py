"""Subjects: an issuer and a user there, byte for byte."""

import pytest

from stepgrant.errors import InvalidIdError
from stepgrant.subject import SubjectId, parse_issuer, parse_subject_id


@pytest.mark.parametrize(
    "text", ["https://login.acme.org#u-17", "https://login.acme.org:8443/realms/a#auth0|5#x", "https://a# "]
)
def test_a_subject_is_its_issuer_and_its_name_there(text: str) -> None:
    subject = parse_subject_id(text)
    assert str(subject) == text
    assert subject.issuer == text.split("#", maxsplit=1)[0]


@pytest.mark.parametrize(
    "issuer",
    [
        "", "login.acme.org", "http://login.acme.org", "HTTPS://login.acme.org", "https://", "https://Login.acme.org", "https://u@a",
        "https://a?b", "https://a/b?c", "https://a/b c", "https://a\n", "https://\u0430", "spiffe://acme.org/a", "https://a/" + "b" * 512,
    ],
)  # fmt: skip
def test_what_is_no_issuer_is_refused_and_never_normalised(issuer: str) -> None:
    with pytest.raises(InvalidIdError, match="https URL"):
        parse_issuer(issuer)
    with pytest.raises(InvalidIdError):
        SubjectId(issuer, "u-17")


@pytest.mark.parametrize(
    "text", ["https://a", "https://a#", "https://a#\u0430", "https://a#x\n", "https://a#" + "x" * 256, "#x"]
)
def test_what_is_no_subject_is_refused(text: str) -> None:
    with pytest.raises(InvalidIdError):
        parse_subject_id(text)
