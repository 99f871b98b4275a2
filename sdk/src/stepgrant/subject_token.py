"""The OIDC token of the user on whose behalf a task runs: given once for all, or brought anew whenever the gateway is to see one."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from stepgrant.compact import JwsMalformedError, parse_members, split_jws
from stepgrant.errors import IdentityUnavailableError, MisuseError
from stepgrant.subject import MAX_SUBJECT_TOKEN

BringToken: TypeAlias = Callable[[], str | Awaitable[str]]
"""Brings the user's newest token. One that is no coroutine function is called in a thread of the loop's pool: it may block
there, but has to come to an end by itself, since nobody can stop it."""
SubjectToken: TypeAlias = str | BringToken
BROUGHT_WITHIN: Final = timedelta(seconds=10)
LATEST: Final = 253402300799
"""End of the year 9999 in seconds, the last that a datetime holds."""


async def brought(bring: BringToken) -> str:
    """The token that `bring` brings, within `BROUGHT_WITHIN`.

    Raises:
        IdentityUnavailableError: it raised, or brought nothing in time; never with its text.
        MisuseError: what it brought is no token.
    """
    try:
        async with asyncio.timeout(BROUGHT_WITHIN.total_seconds()):
            answer = bring() if inspect.iscoroutinefunction(bring) else await asyncio.to_thread(bring)
            token = await answer if inspect.isawaitable(answer) else answer
    except Exception as error:
        raise IdentityUnavailableError(
            f"the user's token could not be had: `subject_token` ended with {type(error).__name__}"
        ) from error
    return fitting(token, "what `subject_token` brought")


def fitting(token: object, what: str) -> str:
    """The token, if its size is that of one; raises MisuseError otherwise, never with the token."""
    if not isinstance(token, str) or not 0 < len(token) <= MAX_SUBJECT_TOKEN:
        raise MisuseError(
            f"{what} is no text, empty, or takes more than {MAX_SUBJECT_TOKEN} characters: give the OIDC token itself, or"
            " leave it out"
        )
    return token


def end_of(token: str) -> datetime | None:
    """When a token says that it ends; None if it does not. Nothing of it is verified: that is the gateway's to do."""
    try:
        exp = parse_members(split_jws(token, MAX_SUBJECT_TOKEN).payload).get("exp")
    except JwsMalformedError:
        return None
    if isinstance(exp, bool) or not isinstance(exp, int | float) or not 0 < exp <= LATEST:
        return None
    return datetime.fromtimestamp(exp, UTC)
