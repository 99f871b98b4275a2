"""A real SPIFFE Workload API for the dev trust domain: one Unix socket per identity, open to its owner only."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import grpc
from spiffe._proto import workload_pb2, workload_pb2_grpc

from stepgrant.spiffe.jwt import MAX_AUDIENCES
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.core.ports import Clock, Timer
from stepgrant_gateway.identity.dev import DevSvid, DevTrustDomain
from stepgrant_gateway.identity.dev_federation import BundleFiles

MAX_SOCKET_PATH: Final = 100
"""Bytes of a socket's path: `sun_path` holds 104 on macOS, 108 on Linux."""
LOOK: Final = timedelta(seconds=1)
SECURITY_HEADER: Final = ("workload.spiffe.io", "true")

_log = logging.getLogger(__name__)
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class DevWorkloadApi:
    """Serves each identity of `domain` at a socket of its own in `directory` while it is entered.

    Whoever can open a socket is that identity; the directory (0700) and the sockets (0600) say who can. SVIDs are rotated
    at half their life, by `clock`, and streams get the new one at once; so they do with a bundle of `federated`, whose files
    are looked at each second.
    """

    def __init__(
        self, domain: DevTrustDomain, directory: Path, clock: Clock, federated: BundleFiles | None = None
    ) -> None:
        self._domain = domain
        self._directory = directory
        self._clock = clock
        self._servers: list[grpc.aio.Server] = []
        self._current: dict[str, DevSvid] = {}
        self._changed = asyncio.Event()
        self._timer: Timer | None = None
        self._federated = federated or BundleFiles({})
        self._look_timer: Timer | None = None

    def socket_for(self, path: str) -> str:
        """The address for `SPIFFE_ENDPOINT_SOCKET`, `unix:/...`, of the identity with this path.

        Raises:
            ConfigError: dev.toml lists no such identity.
        """
        if path not in self._domain.identities:
            listed = ", ".join(sorted(self._domain.identities))
            raise ConfigError(f"dev.toml lists no identity {path!r}; it has {listed}")
        return f"unix:{self._socket(path)}"

    def svid(self, path: str) -> DevSvid:
        """The SVID that the socket of this path hands out now."""
        return self._current[path]

    def rotate(self) -> None:
        """Issues all SVIDs anew, now, and sends them to all streams."""
        self._current = {path: self._domain.issue(path) for path in self._domain.identities}
        self.tell()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.call_at(self._clock.monotonic() + self._domain.svid_ttl / 2, self.rotate)

    def tell(self) -> None:
        """Sends all streams what is true now."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def __aenter__(self) -> Self:
        self._prepare()
        self._look()
        self.rotate()
        try:
            for path in self._domain.identities:
                await self._serve(path)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next change; another one each time."""
        return self._changed

    @property
    def trust_domain(self) -> str:
        """Whose identities are served."""
        return self._domain.trust_domain

    def bundle(self) -> bytes:
        """The bundle of the own trust domain: DER certificates one after the other."""
        return b"".join(self._domain.bundle.authorities)

    def federated_bundles(self) -> dict[str, bytes]:
        """The bundles of further trust domains by their ID, DER certificates one after the other."""
        return self._federated.x509()

    def jwt_bundles(self) -> dict[str, bytes]:
        """The JWT authorities of all trust domains by their ID, a JWKS each."""
        return {**self._federated.jwt(), f"spiffe://{self.trust_domain}": self._domain.jwks}

    def issue_jwt(self, path: str, audience: Sequence[str]) -> str:
        """A JWT-SVID of the identity with this path, issued now."""
        return self._domain.issue_jwt(path, audience)

    def _look(self) -> None:
        if self._federated.look():
            self.tell()
        self._look_timer = self._clock.call_at(self._clock.monotonic() + LOOK, self._look)

    def _prepare(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self._directory.stat()
        if found.st_uid != os.getuid() or found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(
                f"{self._directory} is open to others, and who opens a socket in it is that identity: chmod 700 it"
            )
        for path in self._domain.identities:
            if len(os.fsencode(self._socket(path))) > MAX_SOCKET_PATH:
                raise ConfigError(f"{self._socket(path)} is too long for a Unix socket: choose a shorter directory")

    async def _serve(self, path: str) -> None:
        server = grpc.aio.server()
        workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(  # type: ignore[no-untyped-call]  # generated so
            _Servicer(self, path), server
        )
        self._servers.append(server)
        try:
            server.add_insecure_port(f"unix:{self._socket(path)}")
        except RuntimeError as error:
            raise ConfigError(f"nothing can listen at {self._socket(path)}") from error
        self._socket(path).chmod(0o600)
        await server.start()

    async def _stop(self) -> None:
        for timer in (self._timer, self._look_timer):
            if timer is not None:
                timer.cancel()
        await asyncio.gather(*(server.stop(None) for server in self._servers))
        self._servers.clear()
        for path in self._domain.identities:
            self._socket(path).unlink(missing_ok=True)

    def _socket(self, path: str) -> Path:
        # No SPIFFE ID has a tilde in it, so no two paths share a name.
        return self._directory / f"{path.replace('/', '~')}.sock"


class _Servicer(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    """The Workload API as one identity sees it (SPIFFE Workload API, sections 5 and 6)."""

    def __init__(self, api: DevWorkloadApi, path: str) -> None:
        self._api = api
        self._path = path

    async def FetchX509SVID(  # noqa: N802 - the name in the protocol
        self,
        request: workload_pb2.X509SVIDRequest,  # noqa: ARG002 - empty by specification
        context: _Context,
    ) -> AsyncIterator[workload_pb2.X509SVIDResponse]:
        """The SVID now, and again after each change."""
        await _demand_header(context)
        while True:
            changed, svid = self._api.changed, self._api.svid(self._path)
            entry = workload_pb2.X509SVID(
                spiffe_id=str(svid.spiffe_id),
                x509_svid=b"".join(svid.chain_der),
                x509_svid_key=svid.key_der,
                bundle=self._api.bundle(),
            )
            yield workload_pb2.X509SVIDResponse(svids=[entry], federated_bundles=self._api.federated_bundles())
            await changed.wait()

    async def FetchX509Bundles(  # noqa: N802 - the name in the protocol
        self,
        request: workload_pb2.X509BundlesRequest,  # noqa: ARG002 - empty by specification
        context: _Context,
    ) -> AsyncIterator[workload_pb2.X509BundlesResponse]:
        """All bundles now, and again after each change."""
        await _demand_header(context)
        while True:
            changed, own = self._api.changed, {f"spiffe://{self._api.trust_domain}": self._api.bundle()}
            yield workload_pb2.X509BundlesResponse(bundles={**self._api.federated_bundles(), **own})
            await changed.wait()

    async def FetchJWTSVID(  # noqa: N802 - the name in the protocol
        self, request: workload_pb2.JWTSVIDRequest, context: _Context
    ) -> workload_pb2.JWTSVIDResponse:
        """A JWT-SVID for the audiences that are asked for."""
        await _demand_header(context)
        spiffe_id = f"spiffe://{self._api.trust_domain}/{self._path}"
        if not 1 <= len(request.audience) <= MAX_AUDIENCES or not all(request.audience):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"1 to {MAX_AUDIENCES} audiences are wanted")
        if request.spiffe_id not in {"", spiffe_id}:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"this socket is that of {spiffe_id}")
        svid = workload_pb2.JWTSVID(spiffe_id=spiffe_id, svid=self._api.issue_jwt(self._path, request.audience))
        return workload_pb2.JWTSVIDResponse(svids=[svid])

    async def FetchJWTBundles(  # noqa: N802 - the name in the protocol
        self,
        request: workload_pb2.JWTBundlesRequest,  # noqa: ARG002 - empty by specification
        context: _Context,
    ) -> AsyncIterator[workload_pb2.JWTBundlesResponse]:
        """The JWT authorities now, and again after each change."""
        await _demand_header(context)
        while True:
            changed = self._api.changed
            yield workload_pb2.JWTBundlesResponse(bundles=self._api.jwt_bundles())
            await changed.wait()


async def _demand_header(context: _Context) -> None:
    """Refuses callers without the header that no forged request has (SPIFFE Workload Endpoint, section 4)."""
    if SECURITY_HEADER not in {(key, value) for key, value in context.invocation_metadata() or ()}:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
