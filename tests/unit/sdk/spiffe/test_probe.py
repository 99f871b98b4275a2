"""Parts of the probe that need no server; the rest is in tests/integration/test_probe_pins_the_server.py."""

from __future__ import annotations

import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from stepgrant.errors import GatewayUnavailableError, InvalidSvidError
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.probe import (
    MAX_KEY_PEM_BYTES,
    PinnedServer,
    _context,
    _piped,
    _server_name,
    grpc_channel_credentials,
    probe_server,
    unverified_chain,
)
from stepgrant.spiffe.x509 import verify_x509_svid
from tests.kit.ca import LATE, TestAuthority
from tests.kit.clock import START

AUTHORITY = TestAuthority(intermediate=True)
ME = AUTHORITY.snapshot("agent/support")


def verified(**names):
    svid = AUTHORITY.issue("gateway", **names)
    return verify_x509_svid(svid.leaf_der, svid.chain_der[1:], ME.bundles, START)


def test_the_unverified_chain_is_what_the_peer_sent_leaf_first(tmp_path: Path) -> None:
    """Pins the private call of Python 3.11 and the public one of 3.13."""
    svid = AUTHORITY.issue("gateway")
    (tmp_path / "chain").write_bytes(svid.chain_pem)
    (tmp_path / "key").write_bytes(svid.key_pem)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(tmp_path / "chain", tmp_path / "key")
    left, right = socket.socketpair()

    def serve() -> None:
        with server_context.wrap_socket(right, server_side=True) as connection:
            connection.recv(1)

    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(serve)
        with _context(ME).wrap_socket(left) as connection:
            assert unverified_chain(connection) == svid.chain_der
            connection.send(b"x")
        serving.result(timeout=5)


def test_a_piped_secret_can_be_read_and_leaves_no_file_and_no_descriptor() -> None:
    before = set(Path("/dev/fd").iterdir())
    with _piped(b"secret") as path:
        assert Path(path).read_bytes() == b"secret"
    assert set(Path("/dev/fd").iterdir()) == before
    with pytest.raises(InvalidSvidError, match="more than"), _piped(b"x" * (MAX_KEY_PEM_BYTES + 1)):
        pass


def test_the_name_for_grpc_is_one_that_all_leaves_carry() -> None:
    assert _server_name([verified(dns=["a", "stepgrant"]), verified(dns=["stepgrant", "b"])]) == "stepgrant"
    assert _server_name([verified(common_name="stepgrant")]) == "stepgrant"
    assert _server_name([verified(dns=["*.acme.org", "stepgrant"])]) == "stepgrant"


@pytest.mark.parametrize(
    "names",
    [
        [{}],
        [{"dns": ["a"]}, {"dns": ["b"]}],
        [{"dns": ["*.acme.org"]}],
    ],
)
def test_leaves_without_a_shared_name_are_refused(names: list[dict[str, object]]) -> None:
    with pytest.raises(GatewayUnavailableError, match="share no DNS name"):
        _server_name([verified(**one) for one in names])


def test_a_name_without_an_address_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(GatewayUnavailableError, match="gateway has no address"):
        probe_server("gateway", 1, parse_spiffe_id("spiffe://acme.org/gateway"), ME, START)


def test_a_refused_connection_names_the_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(GatewayUnavailableError, match=r"127\.0\.0\.1: "):
            probe_server(
                "127.0.0.1", port, parse_spiffe_id("spiffe://acme.org/gateway"), ME, START, timedelta(seconds=1)
            )


def test_channel_options_override_the_name_and_trust_only_the_leaves() -> None:
    svid = verified(dns=["stepgrant"])
    pinned = PinnedServer(svid.spiffe_id, (svid,), "stepgrant", LATE)
    _, options = grpc_channel_credentials(ME, pinned)
    assert options == [("grpc.ssl_target_name_override", "stepgrant")]
    assert pinned.leaves_pem.count(b"BEGIN CERTIFICATE") == 1
    assert ssl.PEM_cert_to_DER_cert(pinned.leaves_pem.decode()) == svid.leaf_der
