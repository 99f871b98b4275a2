"""What `stepgrant doctor --config` says of OIDC issuers."""

from __future__ import annotations

from pathlib import Path

from stepgrant_gateway.cli.checks import Check, State
from stepgrant_gateway.cli.exits import Exit
from stepgrant_gateway.cli.issuers import examine_issuers
from tests.kit.oidc import Issuer, authority_file, serving
from tests.unit.gateway.test_config import GOOD, parse_config


def checks(text: str, folder: Path) -> list[Check]:
    return list(examine_issuers(parse_config((GOOD + text).encode(), folder / "gateway.toml")))


def issuer_text(issuer: Issuer, more: str) -> str:
    return f'\n[[identity.subjects]]\nissuer = "{issuer.url}"\naudience = "stepgrant"\n{more}\n'


def test_an_issuer_whose_keys_are_had_is_good_and_one_that_is_away_is_a_warning(tmp_path: Path) -> None:
    ca = f'ca = "{authority_file(tmp_path)}"'
    with serving(Issuer()) as issuer:
        (found,) = checks(issuer_text(issuer, ca), tmp_path)
        assert (found.state, found.says) == (
            State.OK,
            f"{issuer.url} has 1 key; its tokens for stepgrant stand for users",
        )
    (found,) = checks(issuer_text(issuer, ca), tmp_path)
    assert found.state is State.WARNING
    assert issuer.url in found.says
    assert found.command == f"curl {issuer.url}/.well-known/openid-configuration"
    assert checks("", tmp_path) == []


def test_a_file_of_keys_that_cannot_be_used_would_stop_the_start(tmp_path: Path) -> None:
    (found,) = checks(issuer_text(Issuer(), 'jwks = "keys.json"'), tmp_path)
    assert (found.state, found.exit) == (State.FAILED, Exit.REFUSED)
