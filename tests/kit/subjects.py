"""Users on whose behalf tasks run: a policy that knows them, and who proves them where no issuer is needed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from stepgrant.errors import DenialCode
from stepgrant.intent import Json, from_python
from stepgrant.subject import SubjectId
from stepgrant_gateway.core.decision import Refused
from stepgrant_gateway.core.principal import Subject
from tests.kit.catalogs import SUPPORT

LOGIN = "https://login.acme.test"
JO = SubjectId(LOGIN, "u-17")
MAX = SubjectId(LOGIN, "u-18")
KEY = b"one".rjust(32)

CLAIMS = """
subject: # of the user's token
  department: {type: string}
  email: {type: string, sensitive: true}
  groups: {type: array, items: {type: string}}

"""
BY_USER = "\n  by_user: {sum: [orders.refund.amount], per: subject}\n"
RULES = """
@id("users-of-support-only")
@reason("This is for users of the support department.")
forbid (principal, action, resource)
when { context has subject && context.subject has department && context.subject.department != "support" };

@id("a-user-gets-300-back")
@reason("This user has had enough paid back.")
forbid (principal, action == Action::"orders.refund", resource)
when { context.budget.by_user.greaterThan(decimal("300.0")) };
"""


def subject_policy(folder: Path, rules: str = RULES) -> Path:
    """The support desk's directory in `folder`, with claims of users, a budget by user, and rules about both."""
    shutil.copytree(SUPPORT, folder)
    catalog = (folder / "catalog.yaml").read_text().replace("\nbudgets:", f"{CLAIMS}\nbudgets:") + BY_USER
    (folder / "catalog.yaml").write_text(catalog)
    (folder / "subjects.cedar").write_text(rules)
    shutil.rmtree(folder / "tests")
    return folder


def subject_of(
    of: SubjectId, expires_at: datetime, claims: Mapping[str, object] | None = None, key: bytes = KEY
) -> Subject:
    """The user, with these claims, by a token that this key signed."""
    given: Json = from_python({"iss": of.issuer, "sub": of.subject, **(claims or {})})
    assert isinstance(given, dict)
    return Subject(of, expires_at, given, key)


class KnownTokens:
    """A `SubjectProver` that knows each token beforehand."""

    def __init__(self) -> None:
        self.tokens: dict[str, Subject] = {}
        self.keys = {KEY}

    def prove(self, token: str) -> Subject | Refused:
        unknown = Refused(DenialCode.SUBJECT_INVALID, "the token is of no issuer that is configured.", "get another.")
        return self.tokens.get(token, unknown)

    def still_stands(self, subject: Subject) -> bool:
        return subject.signed_by in self.keys
