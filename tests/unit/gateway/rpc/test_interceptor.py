"""Nobody gets past the interceptor unverified: every RPC of every service, found by its descriptor."""

from __future__ import annotations

from types import SimpleNamespace

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stepgrant.errors import InvalidSvidError
from stepgrant.v1 import agent_pb2, dispatch_pb2, operator_pb2, verifier_pb2
from stepgrant_gateway.core.principal import Peer
from stepgrant_gateway.rpc.caller import Evidence
from stepgrant_gateway.rpc.interceptor import IdentityInterceptor
from stepgrant_gateway.rpc.status import UnauthenticatedError
from tests.kit.face import AGENT, Face, serving

METHODS = [
    method
    for file in (agent_pb2, dispatch_pb2, verifier_pb2, operator_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


async def status_of(channel: grpc.aio.Channel, method, metadata=()) -> tuple[grpc.StatusCode, str]:
    """How a call with an empty request ends, whatever its kind."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    coding = {
        "request_serializer": GetMessageClass(method.input_type).SerializeToString,
        "response_deserializer": GetMessageClass(method.output_type).FromString,
    }
    request = GetMessageClass(method.input_type)()
    if method.client_streaming:
        call = channel.stream_stream(path, **coding)(iter(()), metadata=metadata, timeout=5)
    elif method.server_streaming:
        call = channel.unary_stream(path, **coding)(request, metadata=metadata, timeout=5)
    else:
        call = channel.unary_unary(path, **coding)(request, metadata=metadata, timeout=5)
    try:
        if method.server_streaming:
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details()
    return await call.code(), await call.details()


@pytest.fixture
async def face():
    face = Face()
    async with serving(face) as channel:
        face.channel = channel
        yield face


def test_the_face_serves_every_method_of_the_protocol():
    assert {method.full_name.removeprefix("stepgrant.v1.") for method in METHODS} == {
        "AgentGateway.PerformTask",
        "Dispatcher.Assign",
        "Dispatcher.Withdraw",
        *(f"GrantVerifier.{name}" for name in ("Redeem", "Attest", "Watch")),
        *(f"Operator.{name}" for name in ("ListTasks", "ListSteps", "SetLock", "LiftLock", "ListLocks")),
        *(f"Operator.{name}" for name in ("ReloadPolicy", "TailLedger")),
    }


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_tr_02_an_unverified_peer_is_unauthenticated_at_every_method(face, method):
    """INV-11: everything fails closed; one test for each RPC there is, so a new one cannot be forgotten."""
    face.peer = InvalidSvidError("the chain does not verify")

    code, details = await status_of(face.channel, method)

    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "does not verify" in details
    assert face.denied[0][0].endswith(method.name)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_tr_02_what_an_unverified_peer_says_is_not_even_read(face, method):
    """INV-11: what is no message at all is refused for whom it is from, before anybody looks at it."""
    face.peer = InvalidSvidError("the chain does not verify")
    path = f"/{method.containing_service.full_name}/{method.name}"

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await face.channel.stream_stream(path)(iter((b"\xff" * 100,)), timeout=5).read()

    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_authorization_metadata_is_refused_at_every_method(face, method):
    """INV-08: one identity per connection; a bearer token beside the certificate is refused, not ignored."""
    code, _ = await status_of(face.channel, method, metadata=(("authorization", "Bearer x"),))

    assert code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_nobody_is_judged_by_stale_credentials(face, method):
    """INV-11: gRPC keeps serving with old bundles when it cannot get new ones; we do not."""
    face.stale = "the last bundle is an hour old"

    code, _ = await status_of(face.channel, method)

    assert code is grpc.StatusCode.UNAVAILABLE


async def test_health_asks_for_no_identity_and_says_serving(face):
    face.peer = InvalidSvidError("whoever")

    answer = await health_pb2_grpc.HealthStub(face.channel).Check(health_pb2.HealthCheckRequest())

    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("service", sorted({method.containing_service.full_name for method in METHODS}))
async def test_health_knows_each_service_by_name(face, service):
    answer = await health_pb2_grpc.HealthStub(face.channel).Check(health_pb2.HealthCheckRequest(service=service))

    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_failure_of_the_check_itself_lets_nobody_past(face):
    """INV-11: everything fails closed."""
    face.peer = RuntimeError("a bug in the check")

    code, details = await status_of(face.channel, METHODS[0])

    assert code is grpc.StatusCode.INTERNAL
    assert "a bug" not in details


async def test_health_says_not_serving_once_the_gateway_drains(face):
    await face.server.say_draining()

    answer = await health_pb2_grpc.HealthStub(face.channel).Check(health_pb2.HealthCheckRequest())

    assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_method_that_does_not_exist_is_unimplemented(face):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await face.channel.unary_unary("/stepgrant.v1.Operator/BreakGlass")(b"")

    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_calls_that_come_with_the_same_evidence_share_one_copy_of_it(face):
    """Thousands of streams of one agent host would keep as many copies of its certificates."""
    interceptor = IdentityInterceptor(lambda _: AGENT, lambda: None, None, face.quotas)

    def admitted(chain: bytes) -> Evidence:
        context = SimpleNamespace(auth_context=lambda: {"x509_pem_cert": [b"leaf"], "chain": [chain]})
        return interceptor._admit("/a/method", context, ()).evidence

    assert admitted(b"one") is admitted(b"one")
    assert admitted(b"other") == {"x509_pem_cert": [b"leaf"], "chain": [b"other"]}


async def test_nothing_is_kept_of_a_caller_who_is_not_verified(face):
    """DS-08: a stranger's certificates may be of any size, and there are as many as he likes."""

    def verify(evidence: Evidence) -> Peer:
        raise InvalidSvidError("it is nobody's")

    interceptor = IdentityInterceptor(verify, lambda: None, lambda method, reason: None, face.quotas)
    with pytest.raises(UnauthenticatedError):
        interceptor._admit("/a/method", SimpleNamespace(auth_context=lambda: {"x509_pem_cert": [b"l"]}), ())

    assert not interceptor._evidence
