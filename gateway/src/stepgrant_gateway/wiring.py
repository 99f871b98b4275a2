"""Everything is made here, once, and handed to who needs it: the whole gateway from its configuration."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from stepgrant.errors import StepgrantError
from stepgrant.ids import ULID_RANDOM_BYTES, ulid
from stepgrant.intent import MAX_ARGUMENTS_BYTES
from stepgrant.spiffe.files import FileSource
from stepgrant.spiffe.source import IdentitySource
from stepgrant.spiffe.workload import WorkloadApiSource
from stepgrant.v1 import agent_pb2
from stepgrant_gateway.app.delivering import Delivery, Signing
from stepgrant_gateway.app.expiry import Deadlines
from stepgrant_gateway.app.feed import Feed
from stepgrant_gateway.app.folding import fold_ledger
from stepgrant_gateway.app.granting import Granting
from stepgrant_gateway.app.lifecycle import Tasks
from stepgrant_gateway.app.operating import Operating
from stepgrant_gateway.app.recording import Recorder
from stepgrant_gateway.app.redeeming import Redeeming
from stepgrant_gateway.app.restoring import restore
from stepgrant_gateway.app.resuming import Resuming
from stepgrant_gateway.app.retention import Retention
from stepgrant_gateway.app.revoking import Endings
from stepgrant_gateway.app.snapshots import Snapshots
from stepgrant_gateway.app.state import MAX_LIVE_STEPS, MAX_STEP_DEPTH, MAX_STEPS, State
from stepgrant_gateway.config import Config
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.history import History
from stepgrant_gateway.core.ledger import Record
from stepgrant_gateway.core.ports import Clock, Entropy, PolicySet, Sealer, SnapshotStore
from stepgrant_gateway.core.revocation import AnnouncedKey
from stepgrant_gateway.identity.credentials import ServerIdentity
from stepgrant_gateway.identity.peers import PeerVerifier
from stepgrant_gateway.identity.settings import IdentitySettings
from stepgrant_gateway.identity.svid_signer import SourceSvidSigner
from stepgrant_gateway.policy.source import DirectorySource
from stepgrant_gateway.pulse import DeniedCallers, Pulse
from stepgrant_gateway.rpc.agent import AgentService
from stepgrant_gateway.rpc.interceptor import IdentityInterceptor
from stepgrant_gateway.rpc.live import LiveCalls
from stepgrant_gateway.rpc.operator import OperatorService
from stepgrant_gateway.rpc.quotas import PLACES, RATES, Errand, Quotas
from stepgrant_gateway.rpc.server import TRANSPORT, Server, Transport
from stepgrant_gateway.rpc.settings import LimitSettings
from stepgrant_gateway.rpc.stream import Speaker
from stepgrant_gateway.rpc.verifier import VerifierService
from stepgrant_gateway.storage.inputs import DigestSealer, RecipientSealer, recipient_from_pem
from stepgrant_gateway.storage.memory import MemoryLedger, MemorySnapshots
from stepgrant_gateway.storage.settings import InputSettings, LedgerSettings
from stepgrant_gateway.storage.snapshots import SnapshotFiles
from stepgrant_gateway.storage.sqlite import SqliteLedger
from stepgrant_gateway.system import SystemClock, system_entropy
from stepgrant_gateway.tokens.keys import SigningKeys
from stepgrant_gateway.tokens.mint import GrantMinter

DRAIN_GRACE: Final = 2.0
"""Seconds that calls get to end after they were told."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class World:
    """What a gateway has of the world; a test puts its own in place."""

    clock: Clock
    entropy: Entropy
    identity: IdentitySource
    transport: Transport = TRANSPORT


@dataclass(frozen=True, slots=True)
class Application:
    """The use cases over one state, with one journal."""

    tasks: Tasks
    redeeming: Redeeming
    feed: Feed
    operating: Operating
    recorder: Recorder
    keys: SigningKeys


class Gateway:
    """One running gateway."""

    def __init__(self, port: int, instance_id: str, application: Application) -> None:
        self.port = port
        self.instance_id = instance_id
        self.application = application

    @classmethod
    @asynccontextmanager
    async def start(cls, config: Config, world: World | None = None) -> AsyncIterator[Gateway]:
        """A gateway that is ready for as long as it is entered. On leaving it opens no task any more, ends streams and
        watches as `draining`, records that, and stops.

        Raises:
            ConfigError: the configuration cannot be, or something that it names is not there.
            PolicyRefusedError: the policy directory must not be activated.
            IdentityUnavailableError: there is no SVID.
            LedgerBrokenError, LedgerUnusableError, UnrecordedError: the ledger cannot be relied on.
        """
        world = world or World(SystemClock(), system_entropy, identity_source(config.identity, os.environ))
        async with AsyncExitStack() as stack:
            stack.callback(world.identity.close)
            await _require_own_identity(config, world.identity)
            instance_id = ulid(world.clock.now(), world.entropy(ULID_RANDOM_BYTES))
            application = await _application(config, world, instance_id, stack)
            port = await _face(config, world, instance_id, application, stack)
            _log.info("Gateway instance %s serves %s at port %d.", instance_id, config.gateway.issuer, port)
            yield cls(port, instance_id, application)


def identity_source(settings: IdentitySettings, environment: Mapping[str, str]) -> IdentitySource:
    """Where the SVID comes from; raises ConfigError if nothing says where."""
    now = SystemClock().now
    if settings.chain is not None and settings.key is not None and settings.bundle is not None:
        if settings.trust_domain is None:
            raise ConfigError("identity.trust_domain is not set; with files it says whose authorities `bundle` holds")
        return FileSource(
            settings.chain,
            settings.key,
            settings.bundle,
            trust_domain=settings.trust_domain,
            now=now,
            federated=settings.federated,
        )
    socket = settings.socket or environment.get("SPIFFE_ENDPOINT_SOCKET")
    if not socket:
        raise ConfigError(
            "there is no Workload API: set SPIFFE_ENDPOINT_SOCKET, or identity.socket in gateway.toml; "
            "`stepgrant dev` brings one for trying things out"
        )
    return WorkloadApiSource(socket, now=now)


async def _require_own_identity(config: Config, source: IdentitySource) -> None:
    """All gateways of an installation are one SPIFFE ID: whoever verifies grants knows it as the issuer (design 4)."""
    snapshot = await asyncio.to_thread(source.current)
    if snapshot.spiffe_id != config.gateway.issuer:
        raise ConfigError(
            f"gateway.issuer is {config.gateway.issuer}, but the SVID of this gateway is {snapshot.spiffe_id}: "
            "register the gateway under the issuer's ID"
        )


def _store(settings: LedgerSettings) -> tuple[SqliteLedger | MemoryLedger, SnapshotStore]:
    if settings.path is None:
        return MemoryLedger(), MemorySnapshots()
    return SqliteLedger(settings.path), SnapshotFiles(settings.path)


def _sealer(settings: InputSettings, entropy: Entropy) -> Sealer:
    if settings.discard:
        return DigestSealer(entropy)
    try:
        recipients = [recipient_from_pem(path.read_bytes()) for path in settings.recipients]
    except OSError as error:
        raise ConfigError(f"inputs.recipients: {error.filename}: {error.strerror}") from error
    return RecipientSealer(recipients, entropy)


async def _application(config: Config, world: World, instance_id: str, stack: AsyncExitStack) -> Application:
    source = DirectorySource(config.gateway.policy)
    policy = await asyncio.to_thread(source.load)
    sealer = _sealer(config.inputs, world.entropy)
    store, beside = await asyncio.to_thread(_store, config.ledger)
    stack.callback(store.close)
    folded = await asyncio.to_thread(lambda: fold_ledger(store, beside.kept()))
    snapshots = Snapshots(beside, folded, config.ledger.snapshot_every)
    signer = SourceSvidSigner(world.identity)
    recorder = Recorder(store, sealer, world.clock, instance_id, signer=signer, followed=snapshots.follow)
    await recorder.start({"issuer": str(config.gateway.issuer)})
    stack.push_async_callback(recorder.close)
    retention = Retention(store, world.clock, config.inputs.keep_days)
    await retention.start()
    stack.callback(retention.stop)
    keys = SigningKeys(instance_id, signer, world.clock)
    application = _use_cases(config, world, instance_id, policy, source, folded.history, recorder, keys)
    snapshots.begin(recorder, world.clock)
    stack.push_async_callback(snapshots.close)
    events = [application.operating.activation(policy, "gateway")]
    events += [Event(EventType.INSECURE_CHOICE, world.clock.now(), {"choice": choice}) for choice in config.insecure]
    await recorder.record(*events).durable()
    _rotate(application, world.clock)
    pulse = Pulse(world.clock, application.feed.heartbeat, lambda: _rotate_when_due(application, world.clock))
    pulse.start()
    stack.callback(pulse.stop)
    return application


def _use_cases(
    config: Config,
    world: World,
    instance_id: str,
    policy: PolicySet,
    source: DirectorySource,
    history: History,
    recorder: Recorder,
    keys: SigningKeys,
) -> Application:
    clock, entropy = world.clock, world.entropy
    state = State(policy, linger=timedelta(seconds=config.limits.linger_seconds))
    abandoned = restore(state, history, clock.now())
    if abandoned:
        recorder.record_end(*abandoned)
    deadlines = Deadlines(clock)
    feed = Feed(state=state, clock=clock, entropy=entropy, instance_id=instance_id, head=recorder)
    endings = Endings(state=state, clock=clock, journal=recorder, feed=feed, deadlines=deadlines)
    delivery = Delivery(
        state=state,
        clock=clock,
        entropy=entropy,
        endings=endings,
        deadlines=deadlines,
        signing=Signing(str(config.gateway.issuer), GrantMinter(keys)),
    )
    granting = Granting(state=state, clock=clock, entropy=entropy, journal=recorder, endings=endings, delivery=delivery)
    return Application(
        tasks=Tasks(
            state=state,
            clock=clock,
            entropy=entropy,
            journal=recorder,
            granting=granting,
            endings=endings,
            resuming=Resuming(state=state, clock=clock, entropy=entropy, journal=recorder, endings=endings),
        ),
        redeeming=Redeeming(state=state, clock=clock, journal=recorder, feed=feed),
        feed=feed,
        operating=Operating(
            state=state, clock=clock, entropy=entropy, journal=recorder, feed=feed, endings=endings, source=source
        ),
        recorder=recorder,
        keys=keys,
    )


def _rotate(application: Application, clock: Clock) -> None:
    """The next signing key: announced on the feed, then active, then on record."""
    key = application.keys.rotate(application.feed.publish)
    application.recorder.record_end(_activated(key, clock.now()))


def _rotate_when_due(application: Application, clock: Clock) -> None:
    if clock.now() >= application.keys.due():
        _rotate(application, clock)


def _activated(key: AnnouncedKey, now: datetime) -> Event:
    data = {"kid": key.kid, "jwk": key.jwk_json, "not_after_ms": int(key.not_after.timestamp() * 1000)}
    return Event(EventType.KEY_ACTIVATED, now, data)


async def _face(config: Config, world: World, instance_id: str, application: Application, stack: AsyncExitStack) -> int:
    clock, identity = world.clock, world.identity
    listener = ServerIdentity(identity)
    peers = PeerVerifier(lambda: identity.current().bundles, clock.now)
    live = LiveCalls(clock, peers.verify)
    denied = DeniedCallers(application.recorder, clock)
    limits = agent_pb2.Limits(
        live_steps=MAX_LIVE_STEPS, depth=MAX_STEP_DEPTH, arguments_bytes=MAX_ARGUMENTS_BYTES, steps=MAX_STEPS
    )
    speaker = Speaker(str(config.gateway.issuer), instance_id, limits)
    quotas = _quotas(config.limits, clock)
    agent = AgentService(application.tasks, speaker, live, clock, world.entropy, quotas)
    operators = frozenset(str(operator) for operator in config.gateway.operators)

    def tail(after: int, follow: bool) -> AsyncIterator[Record]:
        return application.recorder.tail(after, follow=follow)

    server = Server(
        IdentityInterceptor(peers.verify, listener.stale, denied.record, quotas),
        agent,
        VerifierService(application.redeeming, application.feed, live),
        OperatorService(application.operating, tail, operators, live, denied.record),
        world.transport.carrying(config.limits.open_tasks),
    )
    port = await server.start(str(config.gateway.listen), listener.credentials())

    async def drain() -> None:
        agent.drain()
        await server.say_draining()
        application.tasks.drain()
        live.drain()
        await server.stop(DRAIN_GRACE)

    stack.push_async_callback(drain)
    loop = asyncio.get_running_loop()

    def changed() -> None:
        """Keys are vouched for by the SVID of now, and who no longer verifies is gone."""
        try:
            for key in application.keys.announcements():
                application.feed.publish(key)
        except StepgrantError:
            _log.exception("Signing keys could not be announced under the new SVID.")
        live.verify_again()

    def hear() -> None:
        loop.call_soon_threadsafe(changed)

    stack.callback(identity.subscribe(hear))
    pulse = Pulse(clock, denied.refill, lambda: _look(identity))
    pulse.start()
    stack.callback(pulse.stop)
    return port


def _quotas(settings: LimitSettings, clock: Clock) -> Quotas:
    declare, opening = RATES[Errand.DECLARE], RATES[Errand.OPEN]
    rates = {
        **RATES,
        Errand.DECLARE: declare.at(settings.declares_per_second),
        Errand.OPEN: opening.at(settings.opens_per_second),
    }
    return Quotas(clock, rates, {**PLACES, Errand.OPEN: settings.open_tasks})


def _look(identity: IdentitySource) -> None:
    """Files are looked at when somebody asks for the identity; so somebody asks."""
    identity.current()
