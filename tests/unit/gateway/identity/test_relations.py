"""What a gateway begins with: the bundle that it fetched last, while nothing else was configured since, or the bootstrap."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepgrant.spiffe.bundles import bundle_from_jwks
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.identity.endpoints import Profile
from stepgrant_gateway.identity.relations import begin_relations, encode_relations
from stepgrant_gateway.identity.settings import FederationSettings
from stepgrant_gateway.storage.memory import MemorySnapshots
from tests.kit.ca import TestAuthority
from tests.kit.endpoints import bundle_document

OLD, NEW = TestAuthority("partner.test"), TestAuthority("partner.test")
FETCHED = bundle_document(NEW.bundle(), sequence=9)


def settings(bootstrap: Path, url: str = "https://partner.test/b") -> dict[str, FederationSettings]:
    server = parse_spiffe_id("spiffe://partner.test/spire/server")
    one = FederationSettings(url=url, profile=Profile.SPIFFE, endpoint_id=server, bootstrap=bootstrap)
    return {"partner.test": one}


@pytest.fixture
def bootstrap(tmp_path: Path) -> Path:
    path = tmp_path / "partner.json"
    path.write_bytes(bundle_document(OLD.bundle(), sequence=7))
    return path


@pytest.fixture
def kept(bootstrap: Path) -> MemorySnapshots:
    """As a gateway leaves it that fetched once."""
    shelf = MemorySnapshots()
    (relation,) = begin_relations(settings(bootstrap), shelf)
    relation.held, relation.document = bundle_from_jwks("partner.test", FETCHED), FETCHED
    shelf.keep(encode_relations([relation]))
    return shelf


def sequence(settings: dict[str, FederationSettings], kept: MemorySnapshots) -> int | None:
    (relation,) = begin_relations(settings, kept)
    return None if relation.held is None else relation.held.sequence


def test_a_bootstrap_is_a_bundle_document_or_pem(bootstrap: Path, tmp_path: Path) -> None:
    assert sequence(settings(bootstrap), MemorySnapshots()) == 7
    pem = tmp_path / "partner.pem"
    pem.write_bytes(OLD.bundle().pem)
    (relation,) = begin_relations(settings(pem), MemorySnapshots())
    assert relation.held is not None
    assert relation.held.bundle == OLD.bundle()


def test_what_was_fetched_outlives_the_process_and_a_restart_does_not_go_back(kept, bootstrap: Path) -> None:
    """INV-11: the bootstrap may hold an authority that the partner took out since."""
    assert sequence(settings(bootstrap), kept) == 9


def test_another_bootstrap_or_endpoint_begins_anew(kept, bootstrap: Path) -> None:
    assert sequence(settings(bootstrap, "https://elsewhere.test/b"), kept) == 7
    bootstrap.write_bytes(bundle_document(OLD.bundle(), sequence=1))
    assert sequence(settings(bootstrap), kept) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"version": 2, "bundles": {}}',
        b'{"version": 1, "bundles": {"partner.test": ["x"]}}',
        b"[" * 100_000,
    ],
)
def test_what_was_kept_and_cannot_be_read_counts_for_nothing(bootstrap: Path, data: bytes) -> None:
    shelf = MemorySnapshots()
    shelf.keep(data)
    assert sequence(settings(bootstrap), shelf) == 7


def test_of_two_kept_files_the_newest_that_can_be_read_counts(kept: MemorySnapshots, bootstrap: Path) -> None:
    class Two:
        def kept(self):
            yield b"cut off"
            yield from kept.kept()

        def keep(self, snapshot: bytes) -> None:
            raise AssertionError("beginning keeps nothing")

    (relation,) = begin_relations(settings(bootstrap), Two())
    assert relation.held is not None
    assert relation.held.sequence == 9


def test_authorities_of_the_web_that_cannot_be_read_stop_the_start(tmp_path: Path) -> None:
    one = FederationSettings(url="https://partner.test/b", profile=Profile.WEB, ca=tmp_path / "web.pem")
    with pytest.raises(ConfigError, match=r"the authorities for the endpoint of partner\.test, .* cannot be read"):
        begin_relations({"partner.test": one}, MemorySnapshots())
    (tmp_path / "web.pem").write_bytes(OLD.bundle().pem)
    assert begin_relations({"partner.test": one}, MemorySnapshots())[0].held is None


def test_a_kept_document_that_is_no_bundle_counts_for_nothing(kept, bootstrap: Path) -> None:
    document = json.loads(next(iter(kept.kept())))
    document["bundles"]["partner.test"][1] = "{}"
    kept.keep(json.dumps(document).encode())
    assert sequence(settings(bootstrap), kept) == 7


def test_a_bootstrap_that_is_missing_or_no_bundle_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        begin_relations(settings(tmp_path / "nowhere.json"), MemorySnapshots())
    (tmp_path / "x").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="not a PEM file"):
        begin_relations(settings(tmp_path / "x"), MemorySnapshots())
