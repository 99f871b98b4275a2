"""The verified call of the handler that runs now: where handlers take their arguments from (INV-10)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Final

from stepgrant.errors import MisuseError
from stepgrant.verify.verifier import VerifiedCall

_CURRENT: Final[ContextVar[VerifiedCall | None]] = ContextVar("stepgrant_verified_call", default=None)


def current_call() -> VerifiedCall:
    """The verified call that the running handler serves.

    Raises:
        MisuseError: there is none: the code runs outside a handler that a verifier guards.
    """
    call = _CURRENT.get()
    if call is None:
        raise MisuseError("no verified call here: read it in a handler behind the interceptor or the middleware")
    return call


@contextlib.contextmanager
def serving(call: VerifiedCall) -> Iterator[None]:
    """Makes `call` the current one for what runs inside."""
    before = _CURRENT.get()
    _CURRENT.set(call)
    try:
        yield
    finally:
        _CURRENT.set(before)
