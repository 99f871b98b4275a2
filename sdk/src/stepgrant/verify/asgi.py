"""ASGI middleware: no application code runs unless a live grant covers the very request (design 4).

Proof of possession is DPoP: no ASGI server hands over client certificates, and none is ever taken from a header.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from stepgrant.calls import Call, HttpCalls
from stepgrant.errors import GrantRefusedError, MisuseError, RefusalCode
from stepgrant.grant import DPOP_HEADER, GRANT_METADATA_KEY, REFUSAL_METADATA_KEY
from stepgrant.intent import MAX_ARGUMENTS_BYTES
from stepgrant.verify._status import ANSWERS, Answer
from stepgrant.verify.current import serving
from stepgrant.verify.resource import Verifier
from stepgrant.verify.verifier import DpopHolder, VerifiedCall

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

SCOPE_KEY: Final = "stepgrant.call"
"""Where the application finds the `VerifiedCall`."""
POLICY_VIOLATION: Final = 1008
METHOD_OVERRIDES: Final = ("x-http-method-override", "x-http-method", "x-method-override")
"""Headers that frameworks let speak another method than the one that was verified."""

_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9._-]+(?::[0-9]{1,5})?|https?://\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")


class GrantMiddleware:
    """Guards `app`: requests that `calls` does not register are refused, but for GET on a path of `open_paths`.

    `origin` is this server as its callers know it, such as `https://mail.acme.org`: proofs are checked against it, and
    never against the Host header. With `attest` the outcome (a status below 400) is told to the gateway.
    """

    def __init__(
        self,
        app: App,
        *,
        verifier: Verifier,
        calls: HttpCalls,
        origin: str,
        open_paths: Collection[str] = (),
        attest: bool = False,
    ) -> None:
        if _ORIGIN.fullmatch(origin) is None:
            raise MisuseError(f"the origin {origin!r} is not scheme://host or scheme://host:port")
        self._app = app
        self._verifier = verifier
        self._calls = calls
        self._origin = _normal(origin)
        self._open = frozenset(open_paths)
        self._attest = attest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._app(scope, receive, send)
        elif kind == "http":
            await self._http(scope, receive, send)
        else:  # a socket is no single call; nothing can register one
            await receive()
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            path, headers = _raw_path(scope), list(scope["headers"])
            _refuse_rewritten(scope, path, headers)
            if scope["method"] == "GET" and path in self._open:
                await self._app(scope, receive, send)
                return
            token, proof = _one(headers, GRANT_METADATA_KEY), _one(headers, DPOP_HEADER)
            if token is None:
                raise GrantRefusedError(
                    RefusalCode.GRANT_MISSING,
                    f"the request carries no `{GRANT_METADATA_KEY}` header.",
                    "Declare a step for it and use its grant.",
                )
            if proof is None:
                raise GrantRefusedError(
                    RefusalCode.HOLDER,
                    "the request carries no DPoP proof.",
                    "Send one by the instance key of the task.",
                )
            body = await _read(headers, receive)
            call = self._read(scope, path, headers, body)
            holder = DpopHolder(proof, scope["method"], self._origin + path)
            verified = await self._verifier.verify(token, call, holder)
        except GrantRefusedError as refused:
            await _refuse(send, refused)
            return
        await self._serve(scope, receive, send, verified, body)

    def _read(self, scope: Scope, path: str, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Call:
        query = _ascii(scope.get("query_string", b""), "the query")
        return self._calls.read(scope["method"], path, query, body, _one(headers, "content-type"))

    async def _serve(self, scope: Scope, receive: Receive, send: Send, verified: VerifiedCall, body: bytes) -> None:
        """Runs the application on the bytes that were verified: the body is read once, here."""
        unread = True
        status = 500

        async def replay() -> Message:
            nonlocal unread
            if unread:
                unread = False
                return {"type": "http.request", "body": body, "more_body": False}
            return await receive()

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            with serving(verified):
                await self._app({**scope, SCOPE_KEY: verified}, replay, watch)
        except BaseException:
            status = 500
            raise
        finally:
            if self._attest:
                await self._verifier.attest(verified, completed=status < 400)


async def _read(headers: Iterable[tuple[bytes, bytes]], receive: Receive) -> bytes:
    if _one(headers, "content-encoding") is not None:
        raise _malformed("the body is encoded (content-encoding); send it plain")
    declared = _one(headers, "content-length")
    if declared is not None and (not declared.isdecimal() or len(declared) > 9 or int(declared) > MAX_ARGUMENTS_BYTES):
        raise _malformed(f"the body takes more than {MAX_ARGUMENTS_BYTES} bytes")
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _malformed("the client went away before the body had come")
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_ARGUMENTS_BYTES:
            raise _malformed(f"the body takes more than {MAX_ARGUMENTS_BYTES} bytes")
        parts.append(part)
        if not message.get("more_body", False):
            break
    if declared is not None and int(declared) != size:  # Such as beside `transfer-encoding` (RFC 9112, section 6.3).
        raise _malformed("the body is not of the length that content-length says")
    return b"".join(parts)


async def _refuse(send: Send, refused: GrantRefusedError) -> None:
    refusal = refused.refusal
    answer = ANSWERS[refusal.code]
    content = {"error": refusal.code.value, "reason": refusal.reason, "next": refusal.next}
    body = json.dumps(content).encode("utf-8")
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"cache-control", b"no-store"),
        (REFUSAL_METADATA_KEY.encode("ascii"), refusal.code.value.encode("ascii")),
    ]
    if answer is Answer.UNAUTHENTICATED:
        challenge = f'DPoP realm="stepgrant", algs="ES256", error="{refusal.code.value}"'
        headers.append((b"www-authenticate", challenge.encode("ascii")))
    await send({"type": "http.response.start", "status": answer.value[1], "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _normal(origin: str) -> str:
    """Lower case and without a default port, as clients write it (RFC 3986, sections 6.2.2.1 and 6.2.3)."""
    scheme, _, authority = origin.lower().partition("://")
    return f"{scheme}://{authority.removesuffix(':443' if scheme == 'https' else ':80')}"


def _raw_path(scope: Scope) -> str:
    raw = scope.get("raw_path")
    if not isinstance(raw, bytes):
        raise _malformed("the server does not hand over the path as it was sent (raw_path)")
    return _ascii(raw.partition(b"?")[0], "the path")


def _refuse_rewritten(scope: Scope, path: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raises when the application would be led elsewhere than to what is verified (INV-10)."""
    served = scope["path"]
    if unquote(path) not in {served, f"{scope.get('root_path', '')}{served}"}:
        raise _malformed("its path was rewritten on the way to the guard, which must come first")
    for name in METHOD_OVERRIDES:
        if _one(headers, name) is not None:
            raise _malformed(f"the header {name} asks for another method than the request's own")


def _one(headers: Iterable[tuple[bytes, bytes]], name: str) -> str | None:
    wanted = name.encode("ascii")
    values = [value for key, value in headers if key.lower() == wanted]
    if len(values) > 1:
        raise _malformed(f"the header {name} comes more than once")
    return _ascii(values[0], f"the header {name}") if values else None


def _ascii(value: bytes, what: str) -> str:
    try:
        return value.decode("ascii")
    except UnicodeDecodeError as error:
        raise _malformed(f"{what} is not ASCII") from error


def _malformed(reason: str) -> GrantRefusedError:
    return GrantRefusedError(RefusalCode.CALL_MALFORMED, f"the request cannot be read: {reason}.", "Mend the request.")
