"""What a step is going to do, what its grant is bound to, and the stream that a task is on: values."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeAlias

from stepgrant._wire import declare_message, hand_off_message
from stepgrant.answers import Opened
from stepgrant.envelope import Bounds, read_envelope
from stepgrant.errors import IdentityUnavailableError, InvalidIdError, MisuseError
from stepgrant.handed import MAX_PURPOSE
from stepgrant.session import Ends, GetToken, Session
from stepgrant.spiffe.ids import parse_spiffe_id

if TYPE_CHECKING:
    from stepgrant.dpop import InstanceKey
    from stepgrant.spiffe.source import IdentitySnapshot, IdentitySource
    from stepgrant.v1 import agent_pb2

MAX_HAND_OFF_BYTES: Final = 128 * 1024
"""Of a message; the gateway ends a stream that brings a message of twice that."""


@dataclass(frozen=True, slots=True)
class StepIntent:
    """What a step is going to do. `arguments_json` is canonical JSON; no parent = an empty id."""

    step_id: str
    parent_step_id: str
    tool: str
    arguments_json: str = field(repr=False)
    purpose: str
    wanted_ttl: timedelta | None

    def declaration(self) -> agent_pb2.Declare:
        """The message that asks for its grant."""
        return declare_message(
            step_id=self.step_id,
            parent_step_id=self.parent_step_id,
            tool=self.tool,
            arguments_json=self.arguments_json,
            purpose=self.purpose,
            wanted_ttl=self.wanted_ttl,
        )


def handing_on(step_id: str, to: str, bounds: Bounds, purpose: str) -> agent_pb2.HandOff:
    """The message that asks to hand a step on; raises MisuseError for what can be none."""
    try:
        parse_spiffe_id(to, what="the workload that the step is handed to")
    except InvalidIdError as error:
        raise MisuseError(f"{error}: write it as spiffe://trust-domain/path") from error
    if len(purpose) > MAX_PURPOSE:
        raise MisuseError(f"the purpose of a hand-off takes more than {MAX_PURPOSE} characters: shorten it")
    message = hand_off_message(step_id=step_id, workload=to, envelope=read_envelope(bounds), purpose=purpose)
    if message.ByteSize() > MAX_HAND_OFF_BYTES:
        raise MisuseError(f"the envelope takes more than {MAX_HAND_OFF_BYTES} bytes: hand less on at once")
    return message


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
