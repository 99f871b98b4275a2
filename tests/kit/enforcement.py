"""A gateway as its resources see it: keys, grants and a feed, all made by the real minting code, without a socket."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from stepgrant.calls import Call
from stepgrant.dpop import InstanceKey, ReplayCache, make_proof
from stepgrant.errors import GatewayUnavailableError, StepgrantError
from stepgrant.feed import (
    AnnouncedKey,
    CatalogSlice,
    Checkpoint,
    FeedEvent,
    FeedItem,
    Heartbeat,
    LiftedLock,
    LockInForce,
    RevokedGrant,
    Snapshot,
    ToolSlice,
    checkpoint_message,
)
from stepgrant.grant import Binding, GrantClaims, Tier
from stepgrant.ids import ulid
from stepgrant.intent import digest, parse_object
from stepgrant.jws import sign_jws
from stepgrant.spiffe.bundles import BundleSet
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.signatures import sign_with_key
from stepgrant.verify.feed import TrustedFeed
from stepgrant.verify.keys import GatewayAuthority
from stepgrant.verify.upstream import Redemption
from stepgrant.verify.verifier import DpopHolder, Expected, Holder, TlsHolder
from stepgrant_gateway.tokens.keys import SigningKeys
from stepgrant_gateway.tokens.mint import GrantMinter
from tests.kit.ca import IssuedSvid, TestAuthority
from tests.kit.clock import START, ManualClock

AUDIENCE = "spiffe://acme.org/resource/orders"
ISSUER = "spiffe://acme.org/gateway"
AGENT = parse_spiffe_id("spiffe://acme.org/agent/support/7")
INSTANCE = ulid(START, b"gateway-01")
ORIGIN = "https://orders.acme.org"
TOOL = ToolSlice("orders.refund", hashlib.sha256(b"orders.refund").digest(), "pg://orders/{order_id}")
OTHER_TOOL = ToolSlice("orders.get", hashlib.sha256(b"orders.get").digest(), "pg://orders/{order_id}")
REFUND = Call("orders.refund", parse_object('{"order_id": "ord_1", "amount": 40}'))
CERTIFICATE = hashlib.sha256(b"the agent's leaf").digest()
SECOND = timedelta(seconds=1)


def some_ulid(name: str) -> str:
    return ulid(START, hashlib.sha256(name.encode()).digest()[:10])


class SvidKeySigner:
    """`SvidSigner` with an issued SVID."""

    def __init__(self, svid: IssuedSvid) -> None:
        self.svid = svid

    def sign(self, message: bytes) -> tuple[bytes, tuple[bytes, ...]]:
        return sign_with_key(self.svid.key_pem, message), self.svid.chain_der


class GatewayDouble:
    """The gateway's side: announces, mints, and numbers feed events."""

    def __init__(self, clock: ManualClock | None = None, *, binding: Binding = Binding.MTLS) -> None:
        self.clock = clock or ManualClock()
        self.trust_domain = TestAuthority()
        self.signer = SvidKeySigner(self.trust_domain.issue("gateway"))
        self.keys = SigningKeys(INSTANCE, self.signer, self.clock)
        self.minter = GrantMinter(self.keys)
        self.announced = self.key(self.keys.rotate(lambda _: None))
        self.binding = binding
        self.instance_key = InstanceKey.generate()
        self.bundles = BundleSet((self.trust_domain.bundle(),))
        self.epoch, self.position = some_ulid("epoch"), 0

    @property
    def authority(self) -> GatewayAuthority:
        return GatewayAuthority(parse_spiffe_id(ISSUER), self.bundles)

    @staticmethod
    def key(announced: Any) -> AnnouncedKey:
        """The gateway's value as the verifier's."""
        return AnnouncedKey(
            announced.kid, announced.jwk_json, announced.not_after, announced.svid_chain, announced.signature
        )

    def claims(self, **changes: Any) -> GrantClaims:
        now = self.clock.now().replace(microsecond=0)
        mtls = self.binding is Binding.MTLS
        claims = GrantClaims(
            issuer=ISSUER,
            subject=str(AGENT),
            chain=(str(AGENT),),
            audience=AUDIENCE,
            issued_at=now,
            not_before=now,
            expires_at=now + 20 * SECOND,
            grant_id=some_ulid("grant"),
            task_id=some_ulid("task"),
            step_id=some_ulid("step"),
            task_type="Refund",
            tool=TOOL.tool,
            tool_digest=TOOL.digest,
            target="pg://orders/ord_1",
            args_sha256=digest(REFUND.arguments),
            binding=self.binding,
            confirmation=CERTIFICATE if mtls else self.instance_key.jkt,
            tier=Tier.ROUTINE,
            uses=None,
            policy_digest="sha256:" + "0" * 64,
        )
        return replace(claims, **changes)

    def mint(self, **changes: Any) -> str:
        return self.minter.mint(self.claims(**changes))

    def sign(self, header: dict[str, Any], payload: bytes) -> str:
        """A token with whatever header and payload, under the genuine key."""
        return sign_jws(header, payload, self.keys.active().private)

    def holder(self, token: str, *, jti: str = "one", htu: str = f"{ORIGIN}/orders/ord_1/refund") -> Holder:
        if self.binding is Binding.MTLS:
            return TlsHolder(AGENT, CERTIFICATE)
        proof = make_proof(self.instance_key, htm="POST", htu=htu, grant=token, now=self.clock.now(), jti=jti)
        return DpopHolder(proof, "POST", htu)

    def heartbeat(self, included: int = 1, checkpoint: Checkpoint | None = None) -> Heartbeat:
        return Heartbeat(INSTANCE, self.clock.now(), included, checkpoint)

    def checkpoint(self, sequence: int, content: bytes = b"") -> Checkpoint:
        chain_hash = hashlib.sha256(content + bytes([sequence])).digest()
        signature, chain = self.signer.sign(checkpoint_message(INSTANCE, sequence, chain_hash))
        return Checkpoint(INSTANCE, sequence, chain_hash, chain, signature)

    def slice(self, *tools: ToolSlice) -> CatalogSlice:
        return CatalogSlice(AUDIENCE, self.binding, tools or (TOOL, OTHER_TOOL))

    def snapshot(self, **changes: Any) -> Snapshot:
        snapshot = Snapshot(
            keys=(self.announced,), revoked=(), locks=(), lifted=(), catalog=(self.slice(),), heartbeat=self.heartbeat()
        )
        return replace(snapshot, **changes)

    def event(self, item: FeedItem) -> FeedEvent:
        """The next event; a snapshot begins a new subscription."""
        if isinstance(item, Snapshot):
            self.epoch, self.position = some_ulid(f"epoch {next(_EPOCHS)}"), 0
        self.position += 1
        return FeedEvent(self.epoch, self.position, self.position - 1, item)

    def revoked(self, code: str = "completed") -> RevokedGrant:
        claims = self.claims()
        return RevokedGrant(claims.grant_id, claims.expires_at, code, self.clock.now())


_EPOCHS = itertools.count()


class ResourceDouble:
    """The resource's side: a trusted feed that the test drives by hand."""

    def __init__(self, gateway: GatewayDouble | None = None) -> None:
        self.gateway = gateway or GatewayDouble()
        self.clock = self.gateway.clock
        self.feed = TrustedFeed(frozenset({AUDIENCE}))
        self.expected = Expected.of(ISSUER, AUDIENCE)
        self.replay = ReplayCache()
        self.begin()

    def begin(self, **changes: Any) -> None:
        event = self.gateway.event(self.gateway.snapshot(**changes))
        self.feed.begin(event, self.gateway.authority, self.clock.now(), self.clock.monotonic())

    def hear(self, item: FeedItem) -> None:
        event = self.gateway.event(item)
        self.feed.receive(event, self.gateway.authority, self.clock.now(), self.clock.monotonic())

    def pass_time(self, span: timedelta) -> None:
        """Time passes, with the gateway's heartbeats in between."""
        while span > timedelta(0):
            self.clock.advance(min(span, SECOND))
            span -= SECOND
            self.hear(self.gateway.heartbeat())


class UpstreamDouble:
    """`Upstream` that the test scripts: it puts events, and sets answers."""

    def __init__(self, gateway: GatewayDouble) -> None:
        self.gateway = gateway
        self.queues: list[asyncio.Queue[FeedEvent | StepgrantError]] = []
        self.redemption: Redemption | StepgrantError = Redemption(accepted=True)
        self.redeemed: list[tuple[str, str]] = []
        self.attested: list[tuple[str, bool]] = []
        self.looked_up = 0
        self.refusing: StepgrantError | None = None
        self.silent = False
        self.subscribed = asyncio.Event()

    def authority(self) -> GatewayAuthority:
        return self.gateway.authority

    async def watch(self, audiences: frozenset[str]) -> AsyncGenerator[FeedEvent, None]:
        if self.refusing is not None:
            raise self.refusing
        queue: asyncio.Queue[FeedEvent | StepgrantError] = asyncio.Queue()
        self.queues.append(queue)
        self.subscribed.set()
        if self.silent:
            await asyncio.Event().wait()
        yield self.gateway.event(self.gateway.snapshot())
        while True:
            event = await queue.get()
            if isinstance(event, StepgrantError):
                raise event
            yield event

    def put(self, item: FeedItem) -> None:
        self.queues[-1].put_nowait(self.gateway.event(item))

    def cut(self) -> None:
        self.queues[-1].put_nowait(GatewayUnavailableError("the test cut the feed"))

    async def snapshot(self, audiences: frozenset[str]) -> Snapshot:
        self.looked_up += 1
        keys = tuple(map(self.gateway.key, self.gateway.keys.announcements()))
        return self.gateway.snapshot(keys=keys)

    async def redeem(self, audience: str, grant_id: str, redemption_id: str) -> Redemption:
        self.redeemed.append((grant_id, redemption_id))
        if isinstance(self.redemption, StepgrantError):
            raise self.redemption
        return self.redemption

    async def attest(self, audience: str, grant_id: str, *, completed: bool, result_sha256: bytes | None) -> None:
        self.attested.append((grant_id, completed))


def lock(selector: Any, reason: str = "incident 7") -> LockInForce:
    return LockInForce(some_ulid("lock"), selector, reason)


def lifted(selector: Any, until: datetime) -> LiftedLock:
    return LiftedLock(some_ulid("lock"), selector, until, until + timedelta(minutes=1))


def compact(value: Any) -> bytes:
    return json.dumps(value).encode()
