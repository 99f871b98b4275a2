"""The dev trust domain's Workload API, over real sockets, with the real source of the SDK at the other end."""

from __future__ import annotations

import asyncio
import stat
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from spiffe._proto import workload_pb2, workload_pb2_grpc

from stepgrant.errors import IdentityUnavailableError
from stepgrant.spiffe.bundles import bundle_from_der
from stepgrant.spiffe.ids import SpiffeId
from stepgrant.spiffe.jwt import verify_jwt_svid
from stepgrant.spiffe.jwt_workload import fetch_jwt_svid
from stepgrant.spiffe.workload import WorkloadApiSource
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.identity.dev import DevIdentity, DevTrustDomain
from stepgrant_gateway.identity.dev_federation import BundleFiles, write_bundle
from stepgrant_gateway.identity.dev_workload_api import LOOK, DevWorkloadApi
from tests.kit.clock import ManualClock

IDENTITIES = (DevIdentity("agent/support"), DevIdentity("agent/triage"), DevIdentity("gateway", ("stepgrant",)))


@pytest.fixture
def directory() -> Iterator[Path]:
    # Short, whatever the platform's temporary directory: Unix socket paths hold about a hundred bytes.
    with tempfile.TemporaryDirectory(prefix="sg", dir="/tmp") as path:
        yield Path(path) / "s"


def build(directory: Path) -> tuple[ManualClock, DevWorkloadApi]:
    clock = ManualClock()
    return clock, DevWorkloadApi(DevTrustDomain(IDENTITIES, clock.now), directory, clock)


def modes(directory: Path) -> tuple[int, list[int]]:
    return stat.S_IMODE(directory.stat().st_mode), [stat.S_IMODE(one.stat().st_mode) for one in directory.iterdir()]


def opened(directory: Path) -> Path:
    directory.mkdir()
    directory.chmod(0o755)
    return directory


async def test_each_identity_has_its_own_socket_and_gets_its_own_svid(directory: Path) -> None:
    clock, api = build(directory)
    async with api:
        for identity in IDENTITIES:
            source = WorkloadApiSource(api.socket_for(identity.path), now=clock.now)
            snapshot = await asyncio.to_thread(source.current)
            assert str(snapshot.spiffe_id) == f"spiffe://dev.stepgrant.test/{identity.path}"
            await asyncio.to_thread(source.close)


async def test_sockets_and_their_directory_are_open_to_their_owner_only(directory: Path) -> None:
    _, api = build(directory)
    async with api:
        assert modes(directory) == (0o700, [0o600, 0o600, 0o600])
    assert modes(directory) == (0o700, [])


async def test_svids_are_rotated_at_half_their_life_and_reach_open_streams(directory: Path) -> None:
    clock, api = build(directory)
    async with api:
        source = WorkloadApiSource(api.socket_for("agent/support"), now=clock.now)
        first = await asyncio.to_thread(source.current)
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        source.subscribe(lambda: loop.call_soon_threadsafe(changed.set))
        clock.advance(timedelta(minutes=30))
        await asyncio.wait_for(changed.wait(), 5)
        second = source.current()
        assert second.not_after - first.not_after == timedelta(minutes=30)
        assert second.leaf_sha256 != first.leaf_sha256
        await asyncio.to_thread(source.close)


async def test_two_dev_trust_domains_federate_by_their_bundle_files(directory: Path, tmp_path: Path) -> None:
    """Each workload of ours gets the partner's bundle too, once its file is there."""
    clock, partner = ManualClock(), DevTrustDomain((), ManualClock().now, trust_domain="partner.test")
    files = BundleFiles({"partner.test": tmp_path / "bundle.json"})
    async with DevWorkloadApi(DevTrustDomain(IDENTITIES, clock.now), directory, clock, files) as api:
        source = WorkloadApiSource(api.socket_for("agent/support"), now=clock.now, jwt_authorities=True)
        first = await asyncio.to_thread(source.current)
        assert first.bundles.get("partner.test") is None
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        source.subscribe(lambda: loop.call_soon_threadsafe(changed.set))
        write_bundle(tmp_path / "bundle.json", partner.document)
        clock.advance(LOOK)
        async with asyncio.timeout(5):
            while (
                source.current().bundles.get("partner.test") is None
                or source.current().bundles.jwt("partner.test") is None
            ):
                await changed.wait()
                changed.clear()
        second = source.current()
        assert second.bundles.get("partner.test") == partner.bundle
        assert second.bundles.jwt("dev.stepgrant.test") is not None
        assert second.leaf_sha256 == first.leaf_sha256
        await asyncio.to_thread(source.close)


async def test_a_call_without_the_security_header_is_invalid(directory: Path) -> None:
    _, api = build(directory)
    async with api, grpc.aio.insecure_channel(api.socket_for("agent/support")) as channel:
        stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
        for call in (
            stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), timeout=5),
            stub.FetchX509Bundles(workload_pb2.X509BundlesRequest(), timeout=5),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await call.read()
            assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_bundles_are_streamed_by_trust_domain(directory: Path) -> None:
    _, api = build(directory)
    async with api, grpc.aio.insecure_channel(api.socket_for("gateway")) as channel:
        stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
        metadata = (("workload.spiffe.io", "true"),)
        call = stub.FetchX509Bundles(workload_pb2.X509BundlesRequest(), metadata=metadata, timeout=5)
        answer = await call.read()
        bundle = bundle_from_der("dev.stepgrant.test", answer.bundles["spiffe://dev.stepgrant.test"])
        assert len(bundle.authorities) == 1


async def test_an_identity_that_is_not_listed_has_no_socket(directory: Path) -> None:
    _, api = build(directory)
    with pytest.raises(ConfigError, match=r"no identity 'agent/mallory'.*agent/support"):
        api.socket_for("agent/mallory")


async def test_a_directory_that_others_can_open_is_refused(directory: Path) -> None:
    _, api = build(opened(directory))
    with pytest.raises(ConfigError, match="chmod 700"):
        await api.__aenter__()


async def test_a_directory_too_long_for_sockets_is_refused(directory: Path) -> None:
    _, api = build(directory / ("x" * 100))
    with pytest.raises(ConfigError, match="shorter directory"):
        await api.__aenter__()


async def test_after_the_workload_api_is_gone_the_svid_serves_until_it_expires(directory: Path) -> None:
    clock, api = build(directory)
    async with api:
        source = WorkloadApiSource(api.socket_for("agent/support"), now=clock.now)
        await asyncio.to_thread(source.current)
    assert source.current().spiffe_id.path == "/agent/support"
    clock.set_wall(clock.now() + timedelta(hours=2))
    with pytest.raises(IdentityUnavailableError, match="expired"):
        source.current()
    await asyncio.to_thread(source.close)


async def test_jwt_svids_verify_by_the_jwt_authorities_that_are_streamed(directory: Path) -> None:
    clock, api = build(directory)
    audience = "spiffe://dev.stepgrant.test/gateway"
    async with api:
        socket = api.socket_for("agent/support")
        source = WorkloadApiSource(api.socket_for("gateway"), now=clock.now, jwt_authorities=True)
        bundles = (await asyncio.to_thread(source.current)).bundles
        support = SpiffeId("dev.stepgrant.test", "/agent/support")
        token = await asyncio.to_thread(fetch_jwt_svid, socket, support, audience)
        svid = verify_jwt_svid(token, audience, bundles, clock.now())
        assert (svid.spiffe_id, svid.not_after - clock.now()) == (support, timedelta(minutes=5))
        with pytest.raises(IdentityUnavailableError, match="PERMISSION_DENIED"):
            await asyncio.to_thread(fetch_jwt_svid, socket, SpiffeId("dev.stepgrant.test", "/gateway"), audience)
        with pytest.raises(IdentityUnavailableError, match="INVALID_ARGUMENT"):
            await asyncio.to_thread(fetch_jwt_svid, socket, support, "")
        await asyncio.to_thread(source.close)


async def test_jwt_svids_are_for_callers_with_the_security_header(directory: Path) -> None:
    _, api = build(directory)
    async with api, grpc.aio.insecure_channel(api.socket_for("agent/support")) as channel:
        stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.FetchJWTSVID(workload_pb2.JWTSVIDRequest(audience=["a"]), timeout=5)
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.FetchJWTBundles(workload_pb2.JWTBundlesRequest(), timeout=5).read()
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
