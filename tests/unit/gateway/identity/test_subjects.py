"""Users by their tokens: a subject, or why not, and never a wait."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from stepgrant.errors import DenialCode
from stepgrant_gateway.core.decision import Refused
from stepgrant_gateway.core.principal import Subject
from stepgrant_gateway.identity.discovery import OidcIssuer
from stepgrant_gateway.identity.issuers import Issuers
from stepgrant_gateway.identity.oidc_keys import ASK_AGAIN
from stepgrant_gateway.identity.subjects import COME_BACK, OidcSubjects
from tests.kit.clock import ManualClock
from tests.kit.foreign import ForeignSigner
from tests.kit.oidc import AUDIENCE, Issuer


class Proving:
    """One issuer whose keys lie in a file, and who proves users by its tokens."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.issuer, self.path = ManualClock(), Issuer(), folder / "jwks.json"
        self.path.write_bytes(self.issuer.jwks)
        self.issuers = Issuers([OidcIssuer(self.issuer.url, AUDIENCE, jwks=self.path)], self.clock)
        self.subjects = OidcSubjects(self.issuers, self.clock.now)

    def refused(self, token: str) -> Refused:
        answer = self.subjects.prove(token)
        assert isinstance(answer, Refused)
        return answer


@pytest.fixture
async def proving(tmp_path: Path) -> Proving:
    built = Proving(tmp_path)
    await built.issuers.begin()
    return built


async def test_a_good_token_proves_a_user_with_all_that_it_says(proving: Proving) -> None:
    found = proving.subjects.prove(proving.issuer.token(proving.clock.now(), groups=["a"]))
    assert isinstance(found, Subject)
    assert (str(found.id), found.claims["groups"]) == (f"{proving.issuer.url}#u-17", ["a"])
    assert found.expires_at == proving.clock.now() + timedelta(minutes=10)
    assert "groups" not in repr(found)


async def test_a_bad_token_is_refused_with_what_is_wrong_and_nothing_of_it(proving: Proving) -> None:
    refused = proving.refused(proving.issuer.token(proving.clock.now(), aud="secret"))
    assert refused.code is DenialCode.SUBJECT_INVALID
    assert "`aud`" in refused.reason
    assert "secret" not in repr(refused)


async def test_tk_15_who_has_a_new_key_is_told_to_come_back_and_is_known_then(proving: Proving) -> None:
    proving.issuer.signer = ForeignSigner.of("ES256", "two")
    proving.issuer.publish()
    proving.path.write_bytes(proving.issuer.jwks)
    token = proving.issuer.token(proving.clock.now())
    told = proving.refused(token)
    assert (told.code, told.retry_after) == (DenialCode.OVERLOADED, COME_BACK)
    await proving.issuers.settled()
    assert isinstance(proving.subjects.prove(token), Subject)
    made_up = proving.issuer.token(proving.clock.now(), header={"kid": "three"})
    assert proving.refused(made_up).code is DenialCode.SUBJECT_INVALID
    proving.clock.advance(ASK_AGAIN)
    assert proving.refused(made_up).code is DenialCode.OVERLOADED
