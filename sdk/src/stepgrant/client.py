"""`connect -> task -> step`: the client of one gateway, as one workload."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from stepgrant import dispatching
from stepgrant.answers import Challenge
from stepgrant.clock import Clock, LoopClock
from stepgrant.dispatching import order_of
from stepgrant.dpop import InstanceKey, open_message
from stepgrant.errors import Denial, Denied, GatewayUnavailableError, InvalidIdError, MisuseError, TaskClosedError
from stepgrant.handed import Assignment
from stepgrant.holding import Hold, Holder
from stepgrant.intent import MAX_PARAMETERS_BYTES, parse_object
from stepgrant.lease import open_lease
from stepgrant.link import Address, Links, parse_address
from stepgrant.patience import Patience
from stepgrant.session import Ends, GetToken, Opening, open_session
from stepgrant.spiffe.ids import SpiffeId, parse_spiffe_id
from stepgrant.spiffe.source import IdentitySource
from stepgrant.step import leave
from stepgrant.subject_token import SubjectToken
from stepgrant.tasks import Task, What, opening_of, working_for

GATEWAY_VARIABLE: Final = "STEPGRANT_GATEWAY"
GATEWAY_ID_VARIABLE: Final = "STEPGRANT_GATEWAY_ID"
SOCKET_VARIABLE: Final = "SPIFFE_ENDPOINT_SOCKET"
PROXY_ID_VARIABLE: Final = "STEPGRANT_PROXY_ID"
CREDENTIAL_VARIABLE: Final = "STEPGRANT_CREDENTIAL"
CREDENTIALS: Final = ("x509", "jwt", "oidc")
SHOWN_FILE_VARIABLE: Final = "STEPGRANT_TOKEN_FILE"
BUNDLE_FILE_VARIABLE: Final = "STEPGRANT_BUNDLE_FILE"
CURRENT_CLIENT: Final[ContextVar[Client | None]] = ContextVar("stepgrant_client", default=None)
"""The client that `stepgrant.task` uses here: the innermost that was entered with `async with`."""

OPENING_AT_ONCE: Final = 64
"""Streams of one client that are being opened: when its identity changes all its tasks move, but not in one moment."""


class Client:
    """The client of one gateway, as one workload. Enter it with `async with`, or call `close` when done.

    It connects when the first task is opened. All tasks of a process share one instance key.
    """

    def __init__(
        self,
        address: Address,
        gateway_id: SpiffeId,
        identity: IdentitySource,
        *,
        owns_identity: bool = False,
        clock: Clock | None = None,
        proxy_id: SpiffeId | None = None,
    ) -> None:
        """`proxy_id`: who answers at `address` in the gateway's place, and passes on what it is sent."""
        self._address = address
        self._gateway_id = gateway_id
        self._server_id = proxy_id or gateway_id
        self._identity = identity
        self._owns_identity = owns_identity
        self._clock = clock
        self._links: Links | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()
        self._closed = False
        self._opening_now = asyncio.Semaphore(OPENING_AT_ONCE)
        self._current: Token[Client | None] | None = None

    def __repr__(self) -> str:
        """Gateway and address."""
        return f"<Client of {self._gateway_id} at {self._address.target}>"

    async def __aenter__(self) -> Self:
        """Makes this the client that `stepgrant.task` uses inside."""
        self._loop = asyncio.get_running_loop()
        self._current = CURRENT_CLIENT.set(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes it."""
        if self._current is not None:
            leave(CURRENT_CLIENT, self._current)
        await self.close()

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that it belongs to: the one that it was entered on, or used on first."""
        return self._loop if os.getpid() == self._process else None

    @asynccontextmanager
    async def task(
        self,
        what: What,
        parameters: Mapping[str, object] | None = None,
        *,
        purpose: str = "",
        subject_token: SubjectToken | None = None,
    ) -> AsyncIterator[Task]:
        """An open task for as long as the block runs; tools called inside work for it. An exception closes it as failed.

        `what` is a task type, or an assignment or a hand-off, which says parameters and purpose as well and opens one.
        `subject_token`: the OIDC token of the user on whose behalf it runs, or a function that brings the newest one: it is asked
        again as the task moves to another stream, and when half of a token's life is over. The task ends with the last.

        Raises:
            Denied: the gateway does not let this workload open this task.
            GatewayUnavailableError, IdentityUnavailableError: it could not be asked, or the user's token not be had.
            ArgumentsInvalidError: strict JSON cannot carry the parameters, or they are too large.
        """
        async with self.opened(what, parameters, purpose=purpose, subject_token=subject_token) as task:
            with working_for(task):
                yield task

    @asynccontextmanager
    async def opened(
        self,
        what: What,
        parameters: Mapping[str, object] | None = None,
        *,
        purpose: str = "",
        subject_token: SubjectToken | None = None,
    ) -> AsyncIterator[Task]:
        """As `task`, but nothing that is called inside works for it unless it is told to."""
        opening = opening_of(what, parameters or {}, purpose, subject_token)
        clock = self._clock or LoopClock()
        links = self._own_links(clock)
        lease = await open_lease(functools.partial(self._open, links, opening), clock)
        unwatch = links.watch(lease.look_for_identity)
        failed = True
        try:
            yield Task(lease, opening, clock)
            failed = False
        finally:
            unwatch()
            await lease.close(failed=failed)

    async def assign(
        self,
        task_type: str,
        parameters: Mapping[str, object] | None = None,
        *,
        to: str,
        until: datetime,
        purpose: str = "",
        ticket: bytes | None = None,
    ) -> Assignment:
        """A task for the workload `to` (a SPIFFE ID) to open until then, once; to be handed to it, as it is or as its `slip()`.

        Who asks again with the same `ticket` (32 random bytes, by default new ones) and the same words, the time included,
        gets the same assignment: a dispatcher that may crash keeps them with the work that it hands out.

        Raises:
            Denied: the gateway does not let this workload assign this task.
            GatewayUnavailableError, IdentityUnavailableError: it could not be asked.
            ArgumentsInvalidError: strict JSON cannot carry the parameters, or they are too large.
            MisuseError: the ticket stands for other words, or for what was withdrawn.
        """
        order = order_of(opening_of(task_type, parameters or {}, purpose, None), to, until, ticket)
        answer = await dispatching.assign(self._own_links(self._clock or LoopClock()), order)
        if isinstance(answer, Denial):
            raise Denied(answer, what=f"assigning {task_type}")
        words = parse_object(order.parameters_json, max_bytes=MAX_PARAMETERS_BYTES, what="parameters")
        return Assignment(answer, task_type, words, purpose, order.ticket)

    async def withdraw(self, assignment: Assignment | str) -> str:
        """Takes back an assignment of this workload, or the one of that id: it opens nothing any more, and its task ends.

        The id of the task that ended, empty if none was open.

        Raises:
            MisuseError: this workload has made no such assignment, or it is over.
            GatewayUnavailableError, IdentityUnavailableError: it could not be asked.
        """
        of = assignment.id if isinstance(assignment, Assignment) else assignment
        return await dispatching.withdraw(self._own_links(self._clock or LoopClock()), of)

    @property
    def identity(self) -> IdentitySource:
        """Where the identity comes from that a task opened now would have."""
        return self._identity

    async def close(self) -> None:
        """Closes the connections, and with them tasks that are still open."""
        self._closed = True
        if self._links is not None:
            await self._links.close()
        if self._owns_identity:
            self._identity.close()

    async def _open(self, links: Links, opening: Opening, ends: Ends, resume_token: GetToken) -> Hold:
        opening = await opening.of_now()
        async with self._opening_now:
            return await self._open_stream(links, opening, ends, resume_token)

    async def _open_stream(self, links: Links, opening: Opening, ends: Ends, resume_token: GetToken) -> Hold:
        patience = Patience()
        while True:
            if self._closed:
                raise TaskClosedError("the client is closed, and its tasks with it")
            link, fresh = await links.acquire()
            holder = Holder(link.snapshot, instance_key(os.getpid()), asyncio.get_running_loop(), self._identity)
            sign = functools.partial(_sign, holder)
            try:
                token = functools.partial(link.unless_forsaken, resume_token)
                result = await open_session(
                    link.stream(), str(self._gateway_id), opening, sign, ends=ends, resume_token=token
                )
            except GatewayUnavailableError as error:
                links.release(link)
                if error.retry_after is not None:
                    if await patience.waits(error):
                        continue
                    raise
                links.drop(link)
                if fresh and link.vouched_for():
                    raise
                continue  # The pin may be that of an earlier certificate of the gateway: probe again.
            except BaseException:
                links.release(link)
                raise
            if isinstance(result, Denial):
                links.release(link)
                if await patience.waits(result):
                    continue
                raise Denied(result, what=f"task {opening.task_type}")
            return Hold(*result, holder, link.vouched_for, functools.partial(links.release, link))

    def _own_links(self, clock: Clock) -> Links:
        if self._closed:
            raise MisuseError("this client is closed: connect anew")
        loop = asyncio.get_running_loop()
        if self._loop not in {None, loop} or os.getpid() != self._process:
            raise MisuseError("this client belongs to another event loop or process: connect where it is used")
        self._loop = loop
        if self._links is None:
            self._links = Links(self._address, self._server_id, self._identity, clock)
        return self._links


def connect(
    gateway: str | None = None,
    gateway_id: str | None = None,
    identity: IdentitySource | None = None,
    credential: str | None = None,
    proxy_id: str | None = None,
) -> Client:
    """The client of one gateway. What is not given comes from the environment; nothing is sent yet.

    `gateway` is `host:port` (STEPGRANT_GATEWAY), `gateway_id` its SPIFFE ID (STEPGRANT_GATEWAY_ID), `identity` where the own
    SVID comes from (by default the Workload API at SPIFFE_ENDPOINT_SOCKET). An identity that is given stays the caller's to
    close. `credential` is what the gateway is shown (STEPGRANT_CREDENTIAL): `x509`, which is the default, or at the gateway's
    listener for bearer tokens `jwt`, a JWT-SVID, or `oidc`: no Workload API then, but the OIDC token in STEPGRANT_TOKEN_FILE
    and the authorities of the gateway's trust domain in STEPGRANT_BUNDLE_FILE (PEM). An identity that is given brings its own.
    `proxy_id` (STEPGRANT_PROXY_ID) is the SPIFFE ID of an L7 proxy in front of that listener, if TLS ends there.

    Raises:
        MisuseError: one is missing or malformed; the text says which and what to do.
    """
    address = parse_address(
        _setting(gateway, GATEWAY_VARIABLE, "host:port of the gateway"), f"the gateway ({GATEWAY_VARIABLE})"
    )
    server = _server(gateway_id, GATEWAY_ID_VARIABLE, "the gateway")
    proxied = proxy_id or os.environ.get(PROXY_ID_VARIABLE)
    proxy = _server(proxied, PROXY_ID_VARIABLE, "the proxy") if proxied else None
    if identity is not None:
        if credential is not None:
            raise MisuseError("an identity that is given says itself what it shows: leave `credential` out")
        return Client(address, server, identity, proxy_id=proxy)
    shown = credential if credential is not None else os.environ.get(CREDENTIAL_VARIABLE) or CREDENTIALS[0]
    if shown not in CREDENTIALS:
        raise MisuseError(
            f"what the gateway is shown ({CREDENTIAL_VARIABLE}) is {shown[:64]!r}: set it to x509, jwt or oidc"
        )
    if proxy is not None and shown == CREDENTIALS[0]:
        raise MisuseError(f"a proxy passes no certificate on: set {CREDENTIAL_VARIABLE} to jwt or oidc")
    if shown == "oidc":
        return Client(address, server, _token_file(server.trust_domain), owns_identity=True, proxy_id=proxy)
    socket = _setting(None, SOCKET_VARIABLE, "the Workload API's socket, such as unix:/run/spire/agent.sock")
    if not socket.startswith(("unix:", "tcp:")):
        raise MisuseError(f"{SOCKET_VARIABLE} begins with neither unix: nor tcp:, such as unix:/run/spire/agent.sock")
    return Client(address, server, _workload(socket, server, shown), owns_identity=True, proxy_id=proxy)


def _server(text: str | None, variable: str, who: str) -> SpiffeId:
    try:
        return parse_spiffe_id(_setting(text, variable, f"the SPIFFE ID of {who}"), what=f"{who}'s id ({variable})")
    except InvalidIdError as error:
        raise MisuseError(f"{error}: write it as spiffe://trust-domain/path") from error


def _workload(socket: str, gateway_id: SpiffeId, credential: str) -> IdentitySource:
    """What the Workload API says that this process is. Imported here: it takes a third of a second."""
    from stepgrant.spiffe.workload import WorkloadApiSource

    source = WorkloadApiSource(socket)
    if credential == "x509":
        return source
    from stepgrant.spiffe.jwt_source import JwtSvidSource
    from stepgrant.spiffe.jwt_workload import fetch_jwt_svid

    return JwtSvidSource(source, functools.partial(fetch_jwt_svid, socket), str(gateway_id))


def _token_file(trust_domain: str) -> IdentitySource:
    from stepgrant.spiffe.token_file import TokenFileSource

    token = _setting(None, SHOWN_FILE_VARIABLE, "the file with the OIDC token of this program")
    bundle = _setting(None, BUNDLE_FILE_VARIABLE, "a PEM file with the authorities of the gateway's trust domain")
    return TokenFileSource(Path(token), Path(bundle), trust_domain=trust_domain, now=lambda: datetime.now(UTC))


@functools.lru_cache(maxsize=1)
def instance_key(process: int) -> InstanceKey:  # noqa: ARG001 - the key of the cache: a forked child is an instance of its own
    """The key pair of this instance. One start of one process is one instance (design 1), so a process has one."""
    return InstanceKey.generate()


def _sign(holder: Holder, challenge: Challenge) -> tuple[bytes, bytes]:
    message = open_message(challenge.gateway_id, challenge.nonce, holder.identity.credential_sha256)
    return holder.instance_key.public_der, holder.instance_key.sign_es256_raw(message)


def _setting(given: str | None, variable: str, what: str) -> str:
    value = given if given is not None else os.environ.get(variable, "")
    if not value:
        raise MisuseError(
            f"{variable} is not set: set it to {what}, or start the program with `stepgrant dev run ID -- COMMAND`"
        )
    return value
