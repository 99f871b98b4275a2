"""HTTP calls to one protected resource: an auth object for httpx that adds grant and DPoP proof, to one origin only."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final

from stepgrant.calls import Call, HttpCalls
from stepgrant.dpop import make_proof
from stepgrant.errors import MisuseError, RefusalCode
from stepgrant.grant import DPOP_HEADER, GRANT_METADATA_KEY, REFUSAL_METADATA_KEY, Binding
from stepgrant.outgoing.carrying import carrying_step, refuse_other_audience, step_for
from stepgrant.step import Step
from stepgrant.threads import BlockingStep, wait_for

try:
    import httpx
except ImportError as missing:  # pragma: no cover - the test suite has the extra
    raise MisuseError("stepgrant.HttpAuth needs httpx: pip install 'stepgrant[http]'") from missing

JTI_BYTES: Final = 16
_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}
CLIENT_ERROR: Final = 400
"""From this status on the call, and with it a step that was declared for it, has failed."""


class HttpAuth(httpx.Auth):
    """For `httpx.AsyncClient(auth=...)` and `httpx.Client(auth=...)`: the grant goes to `origin`, and nowhere else.

    Inside a step whose grant is for `audience`, requests to `origin` (`https://host:port`) carry that grant and a proof for
    this very request. Otherwise a request that `calls` knows becomes a step of its own: declared from the request, sent,
    reported. Requests to other origins, and whatever a redirect makes of one, carry nothing. `insecure_http` admits
    `http://` for loopback addresses.

    Raises:
        MisuseError: `origin` is not one, or not https.
    """

    def __init__(
        self, audience: str, origin: str, calls: HttpCalls | None = None, *, insecure_http: bool = False
    ) -> None:
        url = httpx.URL(origin)
        if not url.host or url.raw_path != b"/" or url.userinfo or url.fragment:
            raise MisuseError("the origin of a resource is scheme, host and port alone, such as https://mail.acme.org")
        if url.scheme != "https" and not (url.scheme == "http" and insecure_http and _is_loopback(url.host)):
            raise MisuseError(
                f"the origin {url} is not https: a grant may be read on the way (insecure_http=True: loopback only)"
            )
        self._audience = audience
        self._origin = _origin(url)
        self._prefix = f"{url.scheme}://{url.netloc.decode('ascii')}"  # Lower case, and no default port.
        self._calls = calls

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """One request, with the grant if it is to have one; once more if its grant's renewal overtook it."""
        if _origin(request.url) != self._origin:
            yield request
            return
        await request.aread()
        carried, declared = self._step(request)
        if declared is None:
            grant = None if carried is None else carried.grant
            with self._attached(request, carried):
                response = yield request
            if carried is None or grant is None or not _refused_as_dead(response):
                return
            if await carried.newer(grant) is not None:
                with self._attached(request, carried):
                    yield request
            return
        async with declared as step:
            refuse_other_audience(step, self._audience)
            with self._attached(request, step):
                response = yield request
            if response.status_code >= CLIENT_ERROR:
                step.failed(f"HTTP {response.status_code}")

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """The same for `httpx.Client`, outside the event loop's thread."""
        if _origin(request.url) != self._origin:
            yield request
            return
        request.read()
        carried, declared = self._step(request)
        if declared is None:
            grant = None if carried is None else carried.grant
            with self._attached(request, carried):
                response = yield request
            if carried is None or grant is None or not _refused_as_dead(response):
                return
            if wait_for(carried.holder.loop, carried.newer(grant)) is not None:
                with self._attached(request, carried):
                    yield request
            return
        with BlockingStep(declared) as step:
            refuse_other_audience(step, self._audience)
            with self._attached(request, step):
                response = yield request
            if response.status_code >= CLIENT_ERROR:
                step.failed(f"HTTP {response.status_code}")

    def _step(self, request: httpx.Request) -> tuple[Step | None, Step | None]:
        """The current step to be carried, or a new one to be declared."""
        call = self._call(request)
        carried = carrying_step(self._audience, None if call is None else call.tool)
        if carried is not None or call is None:
            return carried, None
        return None, step_for(call)

    def _call(self, request: httpx.Request) -> Call | None:
        path, _, query = request.url.raw_path.decode("ascii").partition("?")
        if self._calls is None or not self._calls.registers(request.method, path):
            return None
        return self._calls.read(request.method, path, query, request.content, request.headers.get("content-type"))

    @contextmanager
    def _attached(self, request: httpx.Request, step: Step | None) -> Iterator[None]:
        """Grant and proof are on the request while it is sent, and off it before anybody makes another one of it."""
        if step is None:
            yield
            return
        if step.grant.binding is not Binding.KEY:
            raise MisuseError(
                f"the catalog binds grants for {self._audience} to certificates, and HTTP has none to show: "
                "set `binding: key` there"
            )
        grant = step.grant.token
        proof = make_proof(
            step.holder.instance_key,
            htm=request.method,
            htu=self._prefix + request.url.raw_path.decode("ascii").partition("?")[0],
            grant=grant,
            now=datetime.now(UTC),
            jti=secrets.token_urlsafe(JTI_BYTES),
        )
        plain = request.headers
        request.headers = _OneRequestHeaders(plain, [(GRANT_METADATA_KEY, grant), (DPOP_HEADER, proof)])
        try:
            yield
        finally:
            request.headers = plain


class _OneRequestHeaders(httpx.Headers):
    """Headers with secrets that only the sending transport sees.

    httpx copies the headers of a request into the one that a redirect asks for, and strips `authorization` alone. What is
    added here is in `raw`, which transports send, and in no copy.
    """

    def __init__(self, plain: httpx.Headers, secret: list[tuple[str, str]]) -> None:
        super().__init__(plain)
        self._secret = [(name.encode("ascii"), value.encode("ascii")) for name, value in secret]

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        """What is sent."""
        return [*super().raw, *self._secret]


def _refused_as_dead(response: httpx.Response) -> bool:
    """True if the resource said that the grant is dead: then its handler has not run. What a redirect led to says nothing."""
    return not response.history and response.headers.get(REFUSAL_METADATA_KEY) == RefusalCode.REVOKED.value


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port if url.port is not None else _PORTS.get(url.scheme)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
