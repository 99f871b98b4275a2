"""What a step is going to do, what its grant is bound to, and the stream that a task is on: values."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

from stepgrant.answers import Opened
from stepgrant.errors import IdentityUnavailableError
from stepgrant.session import Ends, GetToken, Session

if TYPE_CHECKING:
    from stepgrant.dpop import InstanceKey
    from stepgrant.spiffe.source import IdentitySnapshot, IdentitySource


@dataclass(frozen=True, slots=True)
class StepIntent:
    """What a step is going to do. `arguments_json` is canonical JSON; no parent = an empty id."""

    step_id: str
    parent_step_id: str
    tool: str
    arguments_json: str = field(repr=False)
    purpose: str
    wanted_ttl: timedelta | None


@dataclass(frozen=True, slots=True)
class Holder:
    """What a grant is bound to: calls under it use this identity and this key, and no newer ones.

    `loop` is where the task's stream is served; `source` tells when the identity changes.
    """

    identity: IdentitySnapshot = field(repr=False)
    instance_key: InstanceKey = field(repr=False)
    loop: asyncio.AbstractEventLoop = field(repr=False)
    source: IdentitySource = field(repr=False)

    def outdated(self) -> bool:
        """True if the source has another identity by now."""
        try:
            return self.source.current().credential_sha256 != self.identity.credential_sha256
        except IdentityUnavailableError:
            return False


@dataclass(frozen=True, slots=True)
class Hold:
    """The task on one stream. `vouched_for` says whether who is at its other end is still proven to be the gateway.

    `release` gives the stream's connection back.
    """

    session: Session
    opened: Opened
    holder: Holder
    vouched_for: Callable[[], bool]
    release: Callable[[], None]

    def outdated(self) -> bool:
        """True if the task belongs on another stream: there is a newer identity, or this one's other end is not vouched for."""
        return self.holder.outdated() or not self.vouched_for()


OpenStream: TypeAlias = Callable[[Ends, GetToken], Awaitable[Hold]]
"""A fresh stream with the newest identity; raises Denied, or what `open_session` does."""
