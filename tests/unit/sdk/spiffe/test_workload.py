"""The Workload API source, against a Workload API that the test scripts, over a real Unix socket."""

from __future__ import annotations

import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe._proto import workload_pb2, workload_pb2_grpc

from stepgrant.errors import IdentityUnavailableError
from stepgrant.spiffe.workload import DENIED_FOR, WorkloadApiSource
from tests.kit.ca import IssuedSvid, TestAuthority
from tests.kit.clock import ManualClock

END = object()


class Script(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    """What the API says next: a response, a status to end the stream with, or END. Only the newest stream speaks."""

    def __init__(self) -> None:
        self._said: deque[object] = deque()
        self._streams = 0
        self._changed = threading.Condition()
        self.opened = threading.Semaphore(0)

    def say(self, said: object) -> None:
        with self._changed:
            self._said.append(said)
            self._changed.notify_all()

    def FetchX509SVID(self, request, context):  # noqa: N802 - the name in the protocol
        with self._changed:
            self._streams += 1
            number = self._streams
            self._changed.notify_all()
        self.opened.release()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._said or number != self._streams)
                if number != self._streams:
                    return
                said = self._said.popleft()
            if said is END:
                return
            if isinstance(said, grpc.StatusCode):
                context.abort(said, "scripted")
            yield said


def update(svid: IssuedSvid, authority: TestAuthority, **federated: TestAuthority) -> workload_pb2.X509SVIDResponse:
    entry = workload_pb2.X509SVID(
        spiffe_id="spiffe://whatever/this-is-not-believed",
        x509_svid=b"".join(svid.chain_der),
        x509_svid_key=svid.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        bundle=b"".join(authority.bundle().authorities),
    )
    more = {f"spiffe://{name}.org": b"".join(one.bundle().authorities) for name, one in federated.items()}
    return workload_pb2.X509SVIDResponse(svids=[entry], federated_bundles=more)


class Bench:
    """A scripted API at a socket, a source over it, and a way to wait for the source's changes."""

    def __init__(self, directory: Path) -> None:
        self.clock = ManualClock()
        self.socket = f"unix:{directory}/api.sock"
        self.script = Script()
        self.server = grpc.server(ThreadPoolExecutor(4))
        workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(self.script, self.server)
        self.server.add_insecure_port(self.socket)
        self.server.start()
        self.authority = TestAuthority(intermediate=True)
        self.changed = threading.Semaphore(0)
        self.source = WorkloadApiSource(
            self.socket, now=self.clock.now, patience=timedelta(seconds=5), first_backoff=timedelta(milliseconds=1)
        )
        self.source.subscribe(self.changed.release)

    def say(self, said: object) -> None:
        self.script.say(said)

    def say_and_wait(self, said: object) -> None:
        self.say(said)
        assert self.changed.acquire(timeout=5)

    def denied(self) -> None:
        """Says PermissionDenied, and returns when the source has heard it and asks again."""
        while self.script.opened.acquire(blocking=False):
            pass
        self.say(grpc.StatusCode.PERMISSION_DENIED)
        assert self.script.opened.acquire(timeout=5)

    def close(self) -> None:
        self.source.close()
        self.say(END)
        assert self.server.stop(None).wait(5)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="sg", dir="/tmp") as directory:
        bench = Bench(Path(directory))
        yield bench
        bench.close()


def test_the_identity_is_what_verified_and_not_what_was_said(bench: Bench) -> None:
    svid = bench.authority.issue("agent/support")
    bench.say(update(svid, bench.authority, beta=TestAuthority("beta.org")))
    snapshot = bench.source.current()
    assert str(snapshot.spiffe_id) == "spiffe://acme.org/agent/support"
    assert snapshot.chain_der == svid.chain_der
    assert {bundle.trust_domain for bundle in snapshot.bundles} == {"acme.org", "beta.org"}
    assert snapshot.bundles.get("acme.org") == bench.authority.bundle()


def test_each_update_replaces_the_whole_state(bench: Bench) -> None:
    first, second = TestAuthority(), TestAuthority()
    bench.say_and_wait(update(first.issue("a"), first, beta=TestAuthority("beta.org")))
    bench.say_and_wait(update(second.issue("b"), second))
    snapshot = bench.source.current()
    assert snapshot.spiffe_id.path == "/b"
    assert [bundle.trust_domain for bundle in snapshot.bundles] == ["acme.org"]


def test_an_update_that_does_not_verify_takes_the_identity_away(bench: Bench) -> None:
    """INV-11: nothing that the Workload API brings is trusted unverified."""
    bench.say_and_wait(update(bench.authority.issue("a"), bench.authority))
    bench.say_and_wait(update(bench.authority.issue("a"), TestAuthority()))
    with pytest.raises(IdentityUnavailableError, match="no path leads"):
        bench.source.current()
    bench.say_and_wait(update(bench.authority.issue("a"), bench.authority))
    assert bench.source.current()


def test_permission_denied_takes_the_identity_away_until_there_is_one_again(bench: Bench) -> None:
    """INV-11: who has no identity any more does not go on with the old one."""
    bench.say_and_wait(update(bench.authority.issue("a"), bench.authority))
    bench.denied()
    bench.clock.advance(DENIED_FOR)
    bench.say_and_wait(grpc.StatusCode.PERMISSION_DENIED)
    with pytest.raises(IdentityUnavailableError, match="no identity is registered"):
        bench.source.current()
    bench.say_and_wait(update(bench.authority.issue("b"), bench.authority))
    assert bench.source.current().spiffe_id.path == "/b"


def test_a_moment_of_permission_denied_costs_nothing(bench: Bench) -> None:
    """As SPIRE's agent says it to all while it has their SVIDs signed by another authority; each moment has its own time."""
    bench.say_and_wait(update(bench.authority.issue("a"), bench.authority))
    for path in ("b", "c"):
        before = bench.source.current()
        bench.denied()
        bench.clock.advance(DENIED_FOR - timedelta(milliseconds=1))
        bench.denied()
        assert bench.source.current() == before
        bench.say_and_wait(update(bench.authority.issue(path), bench.authority))
        assert bench.source.current().spiffe_id.path == f"/{path}"


@pytest.mark.parametrize(
    "ending", [END, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.CANCELLED]
)
def test_a_stream_that_ends_is_opened_again_and_the_identity_stays(bench: Bench, ending: object) -> None:
    bench.say_and_wait(update(bench.authority.issue("a"), bench.authority))
    assert bench.script.opened.acquire(timeout=5)
    bench.say(ending)
    assert bench.script.opened.acquire(timeout=5)
    assert bench.source.current().spiffe_id.path == "/a"
    bench.say_and_wait(update(bench.authority.issue("b"), bench.authority))
    assert bench.source.current().spiffe_id.path == "/b"


def test_an_update_that_cannot_be_read_takes_the_identity_away_until_the_next_one(bench: Bench) -> None:
    """INV-11: each message is the whole state."""
    broken = workload_pb2.X509SVID(x509_svid=b"x", x509_svid_key=b"y")
    keyless = update(bench.authority.issue("a"), bench.authority)
    keyless.svids[0].x509_svid_key = b"y"
    bundleless = update(bench.authority.issue("a"), bench.authority)
    bundleless.svids[0].bundle = b"y"
    for response in (
        workload_pb2.X509SVIDResponse(), workload_pb2.X509SVIDResponse(svids=[broken]), keyless, bundleless,
    ):  # fmt: skip
        bench.say_and_wait(update(bench.authority.issue("a"), bench.authority))
        assert bench.source.current().spiffe_id.path == "/a"
        bench.say_and_wait(response)
        with pytest.raises(IdentityUnavailableError, match="its update cannot be used"):
            bench.source.current()


@pytest.mark.parametrize("broken", [b"junk", b"\x30\x03\x02\x01\x00"])
def test_a_federated_bundle_that_cannot_be_used_costs_nobody_else_anything(bench: Bench, broken: bytes, caplog) -> None:
    """INV-11: what a partner publishes must not keep our own SVID and bundle from being replaced."""
    before = update(bench.authority.issue("a"), bench.authority, beta=TestAuthority("beta.org"))
    bench.say_and_wait(before)
    after = update(bench.authority.issue("b"), bench.authority, gamma=TestAuthority("gamma.org"))
    after.federated_bundles["spiffe://beta.org"] = broken
    after.federated_bundles["no ID"] = after.federated_bundles["spiffe://gamma.org/agent"] = b""
    bench.say_and_wait(after)
    snapshot = bench.source.current()
    assert snapshot.spiffe_id.path == "/b"
    assert [bundle.trust_domain for bundle in snapshot.bundles] == ["acme.org", "gamma.org"]
    assert "so nobody of its trust domain is trusted" in caplog.text


def test_an_empty_federated_bundle_means_that_nobody_of_it_is_trusted(bench: Bench) -> None:
    said = update(bench.authority.issue("a"), bench.authority)
    said.federated_bundles["spiffe://beta.org"] = b""
    bench.say_and_wait(said)
    beta = bench.source.current().bundles.get("beta.org")
    assert beta is not None
    assert beta.authorities == ()


def test_no_federated_bundle_speaks_for_the_own_trust_domain(bench: Bench) -> None:
    """INV-11: the own bundle comes with the own SVID."""
    said = update(bench.authority.issue("a"), bench.authority, acme=TestAuthority("acme.org"))
    bench.say_and_wait(said)
    assert bench.source.current().bundles.bundles == (bench.authority.bundle(),)


def test_without_a_socket_there_is_no_identity_and_the_text_says_where() -> None:
    source = WorkloadApiSource("unix:/nonexistent/api.sock", patience=timedelta(milliseconds=20))
    with pytest.raises(IdentityUnavailableError, match=r"unix:/nonexistent/api\.sock"):
        source.current()
    source.close()


def test_a_closed_source_has_no_identity(bench: Bench) -> None:
    bench.say(update(bench.authority.issue("a"), bench.authority))
    bench.source.current()
    bench.source.close()
    with pytest.raises(IdentityUnavailableError, match="closed"):
        bench.source.current()
