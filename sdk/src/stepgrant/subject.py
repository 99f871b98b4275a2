"""Subjects: users at an OIDC issuer, on whose behalf tasks run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from stepgrant.errors import InvalidIdError

MAX_ISSUER_CHARACTERS: Final = 512
MAX_SUBJECT_CHARACTERS: Final = 255
"""OpenID Connect Core 1.0, section 2: `sub` has at most 255 ASCII characters."""
MAX_SUBJECT_TOKEN: Final = 8192
"""Characters of an OIDC token that stands for a subject."""
MAX_SUBJECT_ID_CHARACTERS: Final = MAX_ISSUER_CHARACTERS + 1 + MAX_SUBJECT_CHARACTERS

_ISSUER: Final = re.compile(r"https://[a-z0-9._\[\]:-]+(?:/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?")
_SUBJECT: Final = re.compile(r"[ -~]+")


@dataclass(frozen=True, slots=True)
class SubjectId:
    """A user: `subject` is unique at `issuer` only, so that neither says anything without the other.

    Its text is `issuer#subject`. An issuer has no fragment, so the first `#` parts them; `subject` may hold further ones.
    """

    issuer: str
    subject: str

    def __post_init__(self) -> None:
        """Refuse what is not one of each, byte for byte; nothing is normalised."""
        parse_issuer(self.issuer)
        if len(self.subject) > MAX_SUBJECT_CHARACTERS or _SUBJECT.fullmatch(self.subject) is None:
            raise InvalidIdError(
                f"the `sub` of a subject is not 1 to {MAX_SUBJECT_CHARACTERS} printable ASCII characters"
            )

    def __str__(self) -> str:
        """`issuer#subject`."""
        return f"{self.issuer}#{self.subject}"


def parse_issuer(text: str) -> str:
    """The same text, if it is an issuer: an https URL in lower-case host form without query or fragment.

    OpenID Connect Discovery 1.0, section 3, `issuer`. Compared as bytes: `https://a` and `https://a/` are two issuers.

    Raises:
        InvalidIdError: it is not.
    """
    if len(text) > MAX_ISSUER_CHARACTERS or _ISSUER.fullmatch(text) is None:
        raise InvalidIdError(
            f"the issuer of a subject is not an https URL of at most {MAX_ISSUER_CHARACTERS} characters without query or"
            " fragment, such as https://login.acme.org"
        )
    return text


def parse_subject_id(text: str) -> SubjectId:
    """The subject that `issuer#subject` is; raises InvalidIdError."""
    issuer, _, subject = text.partition("#")
    return SubjectId(issuer, subject)
