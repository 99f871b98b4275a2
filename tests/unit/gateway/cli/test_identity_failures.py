"""What the real sources say when there is no identity, and what `stepgrant doctor` makes of it: the reason, and what to type."""

from __future__ import annotations

import os
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import grpc
import pytest

from stepgrant.errors import IdentityUnavailableError, StepgrantError
from stepgrant.spiffe.bundles import X509Bundle
from stepgrant.spiffe.files import FileSource
from stepgrant.spiffe.workload import WorkloadApiSource
from stepgrant_gateway.cli.checks import Check, State
from stepgrant_gateway.cli.exits import Exit
from stepgrant_gateway.cli.identity_failures import Source, dns_name, without_identity
from tests.kit.ca import TestAuthority
from tests.kit.clock import START
from tests.kit.workload_api import saying, update

HOUR = timedelta(hours=1)
OURS, OTHER = TestAuthority(), TestAuthority()
SVID = OURS.issue("gateway", not_before=START, not_after=START + HOUR)
WANTED = "spiffe://acme.org/gateway"


def found(source: WorkloadApiSource | FileSource, origin: Source, now: datetime) -> Check:
    with closing(source), pytest.raises(IdentityUnavailableError) as refused:
        source.current()
    return without_identity("SVID", refused.value, origin, now)


@pytest.mark.parametrize(
    ("said", "now", "says", "typed"),
    [
        (
            grpc.StatusCode.PERMISSION_DENIED, START, "no entry for this process",
            f"spire-server entry create -parentID AGENT -spiffeID {WANTED} \\\n    -selector unix:uid:{os.geteuid()} -dns gateway",
        ),
        (update(SVID, OURS.bundle()), START - HOUR, "2026-11-21T11:00:00Z: that is behind", "chronyc tracking"),
        (update(SVID, OURS.bundle()), START + 2 * HOUR, "nothing has replaced it", "spire-agent api fetch x509 -socketPath /"),
        (update(SVID, OTHER.bundle()), START, "the bundle is older or newer", "spire-server bundle show"),
        (update(SVID, X509Bundle("acme.org", ())), START, "is empty", "spire-server bundle show"),
        (update(SVID, X509Bundle("acme.org", (b"junk",))), START, "is not DER certificates", "spire-server bundle show"),
    ],
    ids=["no entry", "clock behind", "expired", "bundle of others", "bundle empty", "bundle unreadable"],
)  # fmt: skip
def test_what_a_workload_api_says_is_a_reason_and_something_to_type(said, now, says, typed):
    with saying(said) as address:
        origin = Source(WANTED, Path(address.removeprefix("unix:")), dns="gateway")
        check = found(WorkloadApiSource(address, now=lambda: now), origin, now)

    assert (check.state, check.exit) == (State.FAILED, Exit.UNAVAILABLE)
    assert says in check.says
    assert typed in check.command


@pytest.fixture
def files(tmp_path):
    """Chain, key and bundle as they should be."""
    (tmp_path / "chain.pem").write_bytes(SVID.chain_pem)
    (tmp_path / "key.pem").touch(0o600)
    (tmp_path / "key.pem").write_bytes(SVID.key_pem)
    (tmp_path / "bundle.pem").write_bytes(OURS.bundle().pem)
    return tmp_path


def open_key(folder):
    (folder / "key.pem").chmod(0o640)


def other_bundle(folder):
    (folder / "bundle.pem").write_bytes(OTHER.bundle().pem)


def no_chain(folder):
    (folder / "chain.pem").unlink()


def untouched(folder):
    assert folder.is_dir()


@pytest.mark.parametrize(
    ("spoil", "trust_domain", "now", "says", "typed"),
    [
        (open_key, "acme.org", START, "open to others", "chmod 600 KEY"),
        (other_bundle, "acme.org", START, "older or newer", "openssl verify -CAfile BUNDLE"),
        (no_chain, "acme.org", START, "chain.pem", "ls -l CHAIN KEY BUNDLE"),
        (untouched, "partner.org", START, "that of another trust domain", "openssl x509 -in BUNDLE"),
        (untouched, "acme.org", START + 2 * HOUR, "nothing has replaced it", "openssl x509 -in CHAIN"),
        (untouched, "acme.org", START - HOUR, "that is behind", "chronyc tracking"),
    ],
    ids=["open key", "other bundle", "no chain", "other trust domain", "expired", "clock behind"],
)
def test_what_is_wrong_with_files_is_a_reason_and_something_to_type(files, spoil, trust_domain, now, says, typed):
    """INV-11 and INV-13: refused, and said why."""
    spoil(files)
    chain, key, bundle = (files / f"{name}.pem" for name in ("chain", "key", "bundle"))
    source = FileSource(chain, key, bundle, trust_domain=trust_domain, now=lambda: now)

    check = found(source, Source(WANTED, chain=chain, key=key, bundle=bundle), now)

    assert says in check.says
    for name, path in {"CHAIN": chain, "KEY": key, "BUNDLE": bundle}.items():
        typed = typed.replace(name, str(path))
    assert typed in check.command


def test_a_reason_that_nobody_knows_is_told_in_its_own_words():
    check = without_identity("SVID", StepgrantError("the moon is full"), Source(WANTED, Path("/a.sock")), START)

    assert check.says == "the moon is full"
    assert check.command == "spire-agent api fetch x509 -socketPath /a.sock"


def test_a_server_without_a_dns_name_has_failed_and_says_how_its_entry_gets_one():
    well, bad = dns_name("name", WANTED, ("gateway.acme.org",), "gateway"), dns_name("name", WANTED, (), "gateway")

    assert (well.state, bad.state) == (State.OK, State.FAILED)
    assert f"spire-server entry show -spiffeID {WANTED}" in bad.command
    assert "-dns gateway" in bad.command


def test_of_a_workload_api_that_is_reached_by_tcp_nothing_is_typed_that_takes_a_path():
    error = StepgrantError("the SVID of spiffe://acme.org/gateway expired at 2026-11-21T13:00:00Z: connected")

    assert without_identity("SVID", error, Source(WANTED), START).command == "chronyc tracking"
    assert without_identity("SVID", StepgrantError("the moon is full"), Source(WANTED), START).command == ""
