"""What `stepgrant doctor --config` says of federated trust domains."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepgrant_gateway.cli.checks import Check, State
from stepgrant_gateway.cli.endpoints import examine_endpoints
from stepgrant_gateway.cli.exits import Exit
from tests.kit.ca import TestAuthority
from tests.kit.clock import START
from tests.kit.endpoints import Served, bundle_document, endpoint
from tests.unit.gateway.test_config import GOOD, parse_config

PARTNER = TestAuthority("partner.test")


@pytest.fixture
def served():
    with endpoint(PARTNER.issue("spire/server"), Served()) as one:
        yield one


def checks(served: Served, folder: Path) -> list[Check]:
    text = f"""{GOOD}
[federation."partner.test"]
url = "{served.url}"
profile = "https_spiffe"
endpoint_id = "spiffe://partner.test/spire/server"
bootstrap = "partner.json"
"""
    return list(examine_endpoints(parse_config(text.encode(), folder / "gateway.toml"), {}, lambda: START))


def test_without_federated_trust_domains_there_is_nothing_to_look_at() -> None:
    assert list(examine_endpoints(parse_config(GOOD.encode(), Path("gateway.toml")), {}, lambda: START)) == []


def test_an_endpoint_that_serves_is_good_and_says_what(served: Served, tmp_path: Path) -> None:
    (tmp_path / "partner.json").write_bytes(bundle_document(PARTNER.bundle(), sequence=1))
    served.body = bundle_document(PARTNER.bundle(), sequence=2, hint=60)
    asked, bundle = checks(served, tmp_path)
    assert (asked.state, bundle.state) == (State.OK, State.OK)
    assert "sequence 2; asked again each 60 s" in asked.says
    assert "partner.test: 1 authority" in bundle.says


@pytest.mark.parametrize(
    ("body", "says"),
    [(bundle_document(PARTNER.bundle(), sequence=1), "went back"), (b"<html>", "is not strict JSON")],
)
def test_an_endpoint_that_serves_no_newer_bundle_is_a_warning(served, tmp_path, body, says) -> None:
    (tmp_path / "partner.json").write_bytes(bundle_document(PARTNER.bundle(), sequence=5))
    served.body = body
    (found,) = checks(served, tmp_path)
    assert found.state is State.WARNING
    assert says in found.says


def test_a_bootstrap_that_is_not_there_has_failed(served: Served, tmp_path: Path) -> None:
    (found,) = checks(served, tmp_path)
    assert (found.state, found.exit) == (State.FAILED, Exit.REFUSED)
    assert "partner.json, cannot be read" in found.says
