"""JWT-SVIDs and JWT authorities, from a Workload API that the test scripts, over a real Unix socket."""

from __future__ import annotations

import json
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from spiffe._proto import workload_pb2, workload_pb2_grpc

from stepgrant.errors import IdentityUnavailableError
from stepgrant.spiffe.ids import SpiffeId
from stepgrant.spiffe.jwt_workload import JwtAuthorities, fetch_jwt_svid, read_jwt_bundles
from tests.kit.jwt import JwtAuthority

OURS, NEXT, THEIRS = JwtAuthority(), JwtAuthority(kid="two"), JwtAuthority("partner.org")
ID = SpiffeId("acme.org", "/agent/support")
END = object()


class Script(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    """What the API says next: a response, a status to end the stream with, or END."""

    def __init__(self) -> None:
        self.answers: list[object] = []
        self.asked: list[tuple[list[str], str]] = []
        self._said: deque[object] = deque()
        self._streams = 0
        self._changed = threading.Condition()

    def say(self, said: object) -> None:
        with self._changed:
            self._said.append(said)
            self._changed.notify_all()

    def wait_for_stream(self, number: int) -> None:
        """Returns once so many streams have begun; what is said from then on is said on that one."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._streams >= number, 10)

    def FetchJWTSVID(self, request, context):  # noqa: N802 - the name in the protocol
        demand_header(context)
        self.asked.append((list(request.audience), request.spiffe_id))
        answer = self.answers.pop(0)
        if isinstance(answer, grpc.StatusCode):
            context.abort(answer, "scripted")
        return answer

    def FetchJWTBundles(self, request, context):  # noqa: N802 - the name in the protocol
        demand_header(context)
        with self._changed:
            self._streams += 1
            mine = self._streams
            self._changed.notify_all()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._said or self._streams != mine or not context.is_active(), 30)
                if self._streams != mine or not self._said:
                    return
                said = self._said.popleft()
            if said is END:
                return
            if isinstance(said, grpc.StatusCode):
                context.abort(said, "scripted")
            yield said


def demand_header(context: grpc.ServicerContext) -> None:
    if ("workload.spiffe.io", "true") not in context.invocation_metadata():
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no header")


def jwks(*authorities: JwtAuthority) -> bytes:
    return json.dumps({"keys": [one.signer.jwk() for one in authorities]}).encode()


def bundles(**documents: bytes) -> workload_pb2.JWTBundlesResponse:
    return workload_pb2.JWTBundlesResponse(bundles={f"spiffe://{name}.org": one for name, one in documents.items()})


class Bench:
    """A scripted API at a socket, and what is told of it."""

    def __init__(self, directory: Path) -> None:
        self.socket = f"unix:{directory}/api.sock"
        self.script = Script()
        self.server = grpc.server(ThreadPoolExecutor(4))
        workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(self.script, self.server)
        self.server.add_insecure_port(self.socket)
        self.server.start()
        self.changed = threading.Semaphore(0)
        self.authorities = JwtAuthorities(self.socket, self.changed.release, first_backoff=timedelta(milliseconds=1))

    def say_and_wait(self, said: object) -> None:
        self.script.say(said)
        assert self.changed.acquire(timeout=10)

    def kids(self) -> dict[str, list[str | None]]:
        return {one.trust_domain: [key.kid for key in one.authorities] for one in self.authorities.current()}

    def close(self) -> None:
        self.authorities.close()
        self.script.say(END)
        assert self.server.stop(None).wait(10)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="sg", dir="/tmp") as directory:
        bench = Bench(Path(directory))
        bench.authorities.start()
        yield bench
        bench.close()


def test_each_message_is_the_whole_state(bench: Bench) -> None:
    bench.say_and_wait(bundles(acme=jwks(OURS, NEXT), partner=jwks(THEIRS)))
    assert bench.kids() == {"acme.org": ["one", "two"], "partner.org": ["one"]}
    bench.say_and_wait(bundles(acme=jwks(NEXT)))
    assert bench.kids() == {"acme.org": ["two"]}


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED])
def test_a_lost_connection_changes_nothing_and_is_made_again(bench: Bench, status: grpc.StatusCode) -> None:
    bench.say_and_wait(bundles(acme=jwks(OURS)))
    bench.script.say(status)
    bench.script.say(END)
    bench.say_and_wait(bundles(acme=jwks(OURS, NEXT)))
    assert bench.kids() == {"acme.org": ["one", "two"]}


def test_a_bundle_that_cannot_be_used_is_left_out_and_takes_no_other_along(bench: Bench) -> None:
    twice = jwks(THEIRS, THEIRS)
    bench.say_and_wait(bundles(acme=jwks(OURS), partner=jwks(THEIRS)))
    bench.say_and_wait(bundles(acme=jwks(OURS), partner=twice))
    assert bench.kids() == {"acme.org": ["one"]}


def test_a_listener_that_fails_does_not_keep_the_next_state_from_coming(bench: Bench) -> None:
    def fail() -> None:
        bench.changed.release()
        raise RuntimeError("a bug")

    bench.authorities._changed = fail
    bench.say_and_wait(bundles(acme=jwks(OURS)))
    bench.script.wait_for_stream(2)
    bench.say_and_wait(bundles(acme=jwks(NEXT)))
    assert bench.kids() == {"acme.org": ["two"]}


def test_a_bundle_is_for_a_trust_domain() -> None:
    for name in ("acme.org", "spiffe://acme.org/path", "spiffe://ACME.org", ""):
        assert read_jwt_bundles({name: jwks(OURS)}) == ()


def test_the_first_answer_is_waited_for_whatever_it_is(bench: Bench) -> None:
    bench.script.say(grpc.StatusCode.UNIMPLEMENTED)
    bench.authorities.wait(timedelta(seconds=10))
    assert bench.authorities.current() == ()


def test_a_token_is_asked_for_one_id_and_one_audience(bench: Bench) -> None:
    svid = workload_pb2.JWTSVID(spiffe_id="spiffe://whatever/this-is-not-believed", svid="a.b.c")
    bench.script.answers = [workload_pb2.JWTSVIDResponse(svids=[svid])]
    assert fetch_jwt_svid(bench.socket, ID, "spiffe://acme.org/gateway") == "a.b.c"
    assert bench.script.asked == [(["spiffe://acme.org/gateway"], "spiffe://acme.org/agent/support")]


def test_what_the_workload_api_says_in_place_of_a_token_is_told(bench: Bench) -> None:
    bench.script.answers = [grpc.StatusCode.PERMISSION_DENIED, workload_pb2.JWTSVIDResponse()]
    for said in ("PERMISSION_DENIED: scripted", "it sent none"):
        with pytest.raises(IdentityUnavailableError, match=said):
            fetch_jwt_svid(bench.socket, ID, "spiffe://acme.org/gateway")


def test_where_no_workload_api_is_there_is_no_token(tmp_path: Path) -> None:
    with pytest.raises(IdentityUnavailableError, match="UNAVAILABLE"):
        fetch_jwt_svid(f"unix:{tmp_path}/none", ID, "spiffe://acme.org/gateway")
