"""`[[identity.subjects]]` and `[[identity.workloads]]`: nothing that secures is guessed, and no two issuers share a path."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepgrant_gateway.config import Config, parse_config
from stepgrant_gateway.core.errors import ConfigError

HEAD = """
[gateway]
issuer = "spiffe://acme.org/stepgrant"
listen = "127.0.0.1:0"
LISTEN
policy = "policy"
operators = ["spiffe://acme.org/operator/jo"]
[ledger]
insecure_memory = true
[inputs]
discard = true
[identity]
source = "workload_api"
"""
SUBJECTS = """
[[identity.subjects]]
issuer = "https://login.acme.org"
audience = "stepgrant"
"""
CI = """
[[identity.workloads]]
issuer = "https://ci.acme.org"
audience = "stepgrant"
under = "spiffe://acme.org/ci"
id = "spiffe://acme.org/ci/{repository_id}"
where = {repository_owner = "acme", private = true}
"""


def read(text: str, listen: str = 'listen_bearer = "127.0.0.1:0"') -> Config:
    return parse_config((HEAD.replace("LISTEN", listen) + text).encode(), Path("/etc/stepgrant/gateway.toml"))


def test_issuers_are_read_with_what_they_are_good_for() -> None:
    more = 'parties = ["web-app"]\nca = "web.pem"\njwks_host = "keys.acme.org"\n'
    settings = read(SUBJECTS + more + CI).identity
    [user], [workload] = settings.subjects, settings.workloads
    assert (user.issuer, user.audience, user.parties) == ("https://login.acme.org", "stepgrant", frozenset({"web-app"}))
    assert (user.ca, user.jwks_host, user.jwks) == (Path("/etc/stepgrant/web.pem"), "keys.acme.org", None)
    assert str(workload.mapped.under) == "spiffe://acme.org/ci"
    assert workload.mapped.where == {"repository_owner": "acme", "private": True}
    assert read("").identity.subjects == read("").identity.workloads == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SUBJECTS.replace('audience = "stepgrant"', ""), r"identity.subjects\[0\].audience: is not set"),
        (SUBJECTS.replace('audience = "stepgrant"', 'audience = ""'), "non-empty"),
        (SUBJECTS.replace("https://", "http://"), "https URL"),
        (SUBJECTS + 'audiense = "x"\n', "audiense is not a setting"),
        (SUBJECTS + SUBJECTS, "stands there twice"),
        (SUBJECTS + 'jwks = "keys.json"\nca = "web.pem"\n', "is for discovery"),
        (SUBJECTS + 'parties = "web-app"\n', "a list"),
        ('subjects = "https://login.acme.org"\n', "tables are wanted"),
        (CI.replace("where", "were"), "were is not a setting"),
        (CI.replace('where = {repository_owner = "acme", private = true}', ""), "`where` is not set"),
        (CI.replace('{repository_owner = "acme", private = true}', "{}"), "no condition"),
        (CI.replace('"acme"', '"*"'), "would be no condition"),
        (CI.replace('"acme"', "5"), "neither true or false"),
        (CI.replace('under = "spiffe://acme.org/ci"', 'under = "spiffe://acme.org"'), "a trust domain"),
        (CI.replace("ci/{", "cd/{"), "does not begin with"),
        (CI.replace("acme.org/ci", "other.org/ci"), "another trust domain"),
        (CI.replace("acme.org/ci", "acme.org/operator"), "where spiffe://acme.org/operator/jo lies"),
        (CI.replace("acme.org/ci", "acme.org/stepgrant"), "where spiffe://acme.org/stepgrant lies"),
        (
            CI + CI.replace("//ci.", "//cd.").replace("acme.org/ci", "acme.org/ci/more"),
            "overlaps with that of https://ci.acme.org",
        ),
    ],
)
def test_what_could_let_somebody_else_in_is_refused_with_its_place(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        read(text)
    assert str(error.value).startswith("/etc/stepgrant/gateway.toml:")


def test_workloads_by_token_need_the_listener_for_tokens() -> None:
    with pytest.raises(ConfigError, match=r"set gateway\.listen_bearer"):
        read(CI, listen="")
