"""`[federation."..."]` of gateway.toml: what is read, what is refused, and where."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant_gateway.identity.endpoints import Endpoint, Profile
from stepgrant_gateway.identity.settings import FederationSettings
from tests.unit.gateway.test_config import GOOD, parsed, refused

WEB = '[federation."partner.test"]\nurl = "https://p.test/b?x=1"\nprofile = "https_web"\n'
SPIFFE = (
    '[federation."partner.test"]\nurl = "https://p.test:8443"\nprofile = "https_spiffe"\n'
    'endpoint_id = "spiffe://partner.test/spire/server"\nbootstrap = "partner.json"\n'
)


def test_an_endpoint_of_either_profile_is_read() -> None:
    web = parsed(GOOD + WEB + 'ca = "web.pem"\n').federation["partner.test"].endpoint("partner.test")
    assert web == Endpoint("partner.test", "https://p.test/b?x=1", Profile.WEB, None, Path("conf/web.pem"))
    settings = parsed(GOOD + SPIFFE).federation["partner.test"]
    server = parse_spiffe_id("spiffe://partner.test/spire/server")
    assert settings.endpoint("partner.test") == Endpoint("partner.test", "https://p.test:8443", Profile.SPIFFE, server)
    assert settings.bootstrap == Path("conf/partner.json")
    assert parsed(GOOD).federation == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WEB.replace("profile", "profil"), ":16: federation.partner.test.profil: is not a setting"),
        (WEB.replace('profile = "https_web"\n', ""), "federation.partner.test.profile: is not set"),
        (WEB.replace("https_web", "web"), ':16: federation.partner.test.profile: "https_web" or'),
        (WEB.replace("https://", "http://"), ":15: federation.partner.test.url: a URL such as"),
        (WEB.replace("p.test/b", "me@p.test/b"), "without user and fragment"),
        (WEB.replace("x=1", "x#1"), "without user and fragment"),
        (WEB.replace("p.test/b", "p.test:0/b"), "without user and fragment"),
        (WEB.replace("p.test/b", "p.test:x/b"), "without user and fragment"),
        (WEB.replace("p.test/b", "p.test/b\\r\\nx: y"), "without user and fragment"),
        (WEB.replace("https://p.test/b?x=1", "https:///b"), "without user and fragment"),
        (WEB.replace('"partner.test"', '"Partner.test"'), "a table is named by a trust domain"),
        (WEB.replace('"partner.test"', '"partner.test/x"'), "without a path"),
        (WEB.replace('"partner.test"', '"acme.org"'), "is the own trust domain"),
        (WEB + 'bootstrap = "b.json"\n', ':17: federation.partner.test.bootstrap: is for profile = "https_spiffe"'),
        (WEB + 'endpoint_id = "spiffe://partner.test/x"\n', 'endpoint_id: is for profile = "https_spiffe" only'),
        (SPIFFE + 'ca = "c.pem"\n', 'ca: is for profile = "https_web" only'),
        (SPIFFE.replace('endpoint_id = "spiffe://partner.test/spire/server"\n', ""), "endpoint_id: must be set"),
        (SPIFFE.replace('bootstrap = "partner.json"\n', ""), "bootstrap must be set"),
        (SPIFFE.replace("spiffe://partner.test", "spiffe://other.test"), "by the bundle of other.test"),
        ("[federation]\nx = 1\n", "a table is wanted"),
        ("[[federation]]\nx = 1\n", "tables are wanted"),
    ],
)
def test_what_is_not_whole_or_not_meant_for_the_profile_is_refused(text: str, said: str) -> None:
    """INV-13."""
    assert said in refused(GOOD + text)


def test_a_trust_domain_has_one_bundle_from_one_source() -> None:
    files = 'source = "files"\nchain = "c.pem"\nkey = "k.pem"\nbundle = "b.pem"\ntrust_domain = "acme.org"\n'
    both = GOOD.replace('source = "workload_api"\n', files + 'federated = {"partner.test" = "o.pem"}\n') + WEB
    assert "federation.partner.test: is in identity.federated as well" in refused(both)


def test_there_is_a_bound_for_trust_domains() -> None:
    assert "at most 64" in refused(GOOD + "".join(WEB.replace("partner", f"p{number}") for number in range(65)))


def test_every_setting_says_what_it_is() -> None:
    for setting in fields(FederationSettings):
        assert setting.metadata["doc"].endswith("."), setting.name
