"""Users, proven by tokens of the OIDC issuers that are configured for them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from stepgrant.errors import DenialCode, InvalidInputError
from stepgrant_gateway.core.decision import Refused
from stepgrant_gateway.core.principal import Subject
from stepgrant_gateway.identity.issuers import Issuers
from stepgrant_gateway.identity.oidc import UnknownKeyError, verify_oidc_token

COME_BACK: Final = timedelta(seconds=1)
"""When to ask again while the issuer's keys are being fetched."""
KEY_COMES = Refused(
    DenialCode.OVERLOADED,
    "the key of the subject token is not known yet, and is being looked for.",
    "try again in a moment.",
    retry_after=COME_BACK,
)


class OidcSubjects:
    """Implements `core.ports.SubjectProver`."""

    def __init__(self, issuers: Issuers, now: Callable[[], datetime]) -> None:
        """`now` is the aware wall clock."""
        self._issuers = issuers
        self._now = now

    def prove(self, token: str) -> Subject | Refused:
        """See `core.ports.SubjectProver`."""
        try:
            verified = verify_oidc_token(token, self._issuers.trust_in, self._now())
        except UnknownKeyError as error:
            return KEY_COMES if self._issuers.missing_key(error.issuer) else _invalid(error)
        except InvalidInputError as error:
            return _invalid(error)
        return Subject(verified.subject, verified.expires_at, verified.claims, verified.signed_by)

    def still_stands(self, subject: Subject) -> bool:
        """See `core.ports.SubjectProver`."""
        return self._issuers.holds(subject.id.issuer, subject.signed_by)


def _invalid(error: InvalidInputError) -> Refused:
    return Refused(
        DenialCode.SUBJECT_INVALID,
        f"the subject token is not taken: {error}.",
        "get a token of the user for this gateway's audience, or ask the operator for [[identity.subjects]].",
    )
