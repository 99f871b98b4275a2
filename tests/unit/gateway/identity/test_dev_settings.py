"""dev.toml: what it may say, and what is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.identity.dev import DevIdentity
from stepgrant_gateway.identity.dev_settings import parse_dev_toml

GOOD = """
# who there is
[identities."agent/support"]
[identities.gateway]
dns = ["stepgrant"]
"""


def test_dev_toml_lists_identities() -> None:
    settings = parse_dev_toml(GOOD)
    assert settings.identities == (DevIdentity("agent/support"), DevIdentity("gateway", ("stepgrant",)))
    assert (settings.trust_domain, settings.federated) == ("dev.stepgrant.test", {})


def test_dev_toml_names_the_trust_domain_and_the_bundle_files_of_others_relative_to_it() -> None:
    text = 'trust_domain = "partner.test"\n[federated]\n"dev.stepgrant.test" = "../ours/bundle.json"\n' + GOOD
    settings = parse_dev_toml(text, file=Path("conf/dev.toml"))
    assert settings.trust_domain == "partner.test"
    assert settings.federated == {"dev.stepgrant.test": Path("conf/../ours/bundle.json")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has 1 to 256 tables"),
        ("identities = 3", "has 1 to 256 tables"),
        ("[identities]", "has 1 to 256 tables"),
        ("[identities", r"dev\.toml: "),
        ("[identities.a]\n[other]", r"dev\.toml:2: unknown key `other`"),
        ("[identities.a]\n\ndsn = []", r"dev\.toml:3: unknown key `dsn` of 'a'"),
        ('[identities."a b"]', r"dev\.toml:1: identity 'a b'"),
        ('[identities."/a"]', r"dev\.toml:1: "),
        ('[identities."a/../b"]', r"dev\.toml:1: "),
        ("[identities]\na = 1", r"dev\.toml:2: identity 'a' is not a table|dev\.toml:1"),
        ('[identities.a]\ndns = "x"', "array of DNS names"),
        ('[identities.a]\ndns = ["UPPER"]', "array of DNS names"),
        ('[identities.a]\ndns = ["*.x"]', "array of DNS names"),
        ("[identities.a]\ndns = [7]", "array of DNS names"),
        ('trust_domain = "acme.org"\n[identities.a]', r"dev\.toml:1: 'acme\.org' is not .* ends in \.test"),
        ('trust_domain = "x/y.test"\n[identities.a]', r"dev\.toml:1: 'x/y\.test' is not"),
        ('trust_domain = "A.test"\n[identities.a]', r"dev\.toml:1: A\.test: "),
        ("trust_domain = 7\n[identities.a]", r"dev\.toml:1: 7 is not"),
        ("federated = 7\n[identities.a]", r"dev\.toml:1: `federated` is a table"),
        ('[identities.a]\n[federated]\n"dev.stepgrant.test" = "b"', r"dev\.toml:3: dev\.stepgrant\.test is the own"),
        ('[identities.a]\n[federated]\n"acme.org" = "b"', r"dev\.toml:3: 'acme\.org' is not"),
        ('[identities.a]\n[federated]\n"p.test" = 7', r"dev\.toml:3: the path of a bundle file is wanted"),
        ('[identities.a]\ndns = ["x\\n"]', "array of DNS names"),
    ],
)
def test_whatever_else_dev_toml_says_is_refused_with_its_place(text: str, message: str) -> None:
    """INV-13."""
    with pytest.raises(ConfigError, match=message):
        parse_dev_toml(text)
