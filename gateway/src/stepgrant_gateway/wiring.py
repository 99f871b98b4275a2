"""Everything is made here, once, and handed to who needs it: the whole gateway from its configuration."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from stepgrant.errors import IdentityUnavailableError
from stepgrant.ids import ULID_RANDOM_BYTES, ulid
from stepgrant.intent import MAX_ARGUMENTS_BYTES
from stepgrant.spiffe.source import IdentitySource
from stepgrant.v1 import agent_pb2
from stepgrant_gateway.app.assigning import Assigning
from stepgrant_gateway.app.delivering import Delivery, Signing
from stepgrant_gateway.app.disowning import Disowning
from stepgrant_gateway.app.expiry import Deadlines
from stepgrant_gateway.app.feed import Feed
from stepgrant_gateway.app.folding import fold_ledger
from stepgrant_gateway.app.granting import Granting
from stepgrant_gateway.app.handing import Handing
from stepgrant_gateway.app.lifecycle import Tasks
from stepgrant_gateway.app.logging_out import LoggingOut
from stepgrant_gateway.app.open_tasks import MAX_LIVE_STEPS, MAX_STEP_DEPTH, MAX_STEPS
from stepgrant_gateway.app.operating import Operating
from stepgrant_gateway.app.recording import Recorder
from stepgrant_gateway.app.redeeming import Redeeming
from stepgrant_gateway.app.restoring import forgive, restore
from stepgrant_gateway.app.resuming import Resuming
from stepgrant_gateway.app.retention import Retention
from stepgrant_gateway.app.revoking import Endings
from stepgrant_gateway.app.snapshots import Snapshots
from stepgrant_gateway.app.state import State
from stepgrant_gateway.config import Config
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.core.events import Event, EventType
from stepgrant_gateway.core.history import History
from stepgrant_gateway.core.ledger import Record
from stepgrant_gateway.core.observations import UNOBSERVED
from stepgrant_gateway.core.ports import Clock, Entropy, Observer, PolicySet
from stepgrant_gateway.identity.federation import FederatedIdentity
from stepgrant_gateway.identity.relations import begin_relations
from stepgrant_gateway.identity.svid_signer import SourceSvidSigner
from stepgrant_gateway.listeners import Judges, Listeners, Services
from stepgrant_gateway.logout import logging_out
from stepgrant_gateway.oversight import Oversight, Watched
from stepgrant_gateway.policy.source import DirectorySource
from stepgrant_gateway.proving import Provers, proving
from stepgrant_gateway.pulse import DeniedCallers, Pulse
from stepgrant_gateway.rpc.agent import AgentService
from stepgrant_gateway.rpc.dispatcher import DispatcherService
from stepgrant_gateway.rpc.live import LiveCalls
from stepgrant_gateway.rpc.opening import Speaker
from stepgrant_gateway.rpc.operator import OperatorService
from stepgrant_gateway.rpc.quotas import quotas_of
from stepgrant_gateway.rpc.server import TRANSPORT, Transport
from stepgrant_gateway.rpc.verifier import VerifierService
from stepgrant_gateway.storage.opening import bundle_store, make_sealer, open_ledger
from stepgrant_gateway.storage.space import DiskSpace
from stepgrant_gateway.system import SystemClock, identity_source, system_entropy
from stepgrant_gateway.tokens.keys import SigningKeys
from stepgrant_gateway.tokens.mint import GrantMinter
from stepgrant_gateway.tracing import Tracing, begin_tracing
from stepgrant_gateway.trust import following, on_record
from stepgrant_gateway.upkeep import Upkeep
from stepgrant_gateway.web.metrics import Metrics

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
    observer: Observer = UNOBSERVED


@dataclass(frozen=True, slots=True)
class Application:
    """The use cases over one state, with one journal."""

    state: State
    tasks: Tasks
    assigning: Assigning
    redeeming: Redeeming
    feed: Feed
    operating: Operating
    recorder: Recorder
    retention: Retention
    keys: SigningKeys
    logging_out: LoggingOut
    disowning: Disowning


class Gateway:
    """One running gateway."""

    def __init__(
        self, ports: tuple[int, int | None], instance_id: str, application: Application, oversight: Oversight,
        logout_port: int | None,
    ) -> None:  # fmt: skip
        self.port, self.bearer_port = ports
        self.logout_port = logout_port
        self.oversight = oversight
        self.instance_id = instance_id
        self.application = application

    @classmethod
    @asynccontextmanager
    async def start(
        cls, config: Config, world: World | None = None, *, ahead_until: datetime | None = None
    ) -> AsyncIterator[Gateway]:
        """A gateway that is ready for as long as it is entered. On leaving it opens no task any more, ends streams and
        watches as `draining`, records that, and stops. `ahead_until`: see `app.restoring.forgive`.

        Raises:
            ConfigError: the configuration cannot be, or something that it names is not there.
            PolicyRefusedError: the policy directory must not be activated.
            IdentityUnavailableError: there is no SVID.
            LedgerBrokenError, LedgerUnusableError, UnrecordedError: the ledger cannot be relied on.
        """
        if world is None:
            bearers = config.gateway.listen_bearer is not None
            identity = identity_source(config.identity, os.environ, jwt_authorities=bearers)
            world = World(SystemClock(), system_entropy, identity)
        metrics = None if config.metrics.address is None else Metrics()
        async with AsyncExitStack() as stack:
            stack.callback(world.identity.close)
            observer, kept = metrics or world.observer, bundle_store(config.ledger)
            relations = await asyncio.to_thread(begin_relations, config.federation, kept)
            identity = FederatedIdentity(
                world.identity, relations, world.clock, world.entropy, kept=kept, observer=observer
            )
            stack.callback(identity.close)
            world = replace(world, identity=identity)
            await _require_own_identity(config, identity)
            instance_id = ulid(world.clock.now(), world.entropy(ULID_RANDOM_BYTES))
            tracing = begin_tracing(config.tracing, instance_id, observer)
            if tracing is not None:
                stack.push_async_callback(tracing.close)
            world = replace(world, observer=tracing or observer)
            provers = await stack.enter_async_context(proving(config, identity, world.clock))
            application = await _application(config, world, instance_id, provers, stack, ahead_until)
            ports, oversight = await _face(config, world, identity, instance_id, application, provers, metrics, stack)
            logout_port = stack.enter_context(logging_out(config.logout, provers.logouts, application.logging_out))
            identity.start()
            _log.info(
                "Gateway instance %s serves %s at port %d.", instance_id, config.gateway.issuer, ports[0],
                extra={"event": "started"},
            )  # fmt: skip
            yield cls(ports, instance_id, application, oversight, logout_port)


async def _require_own_identity(config: Config, source: IdentitySource) -> None:
    """All gateways of an installation are one SPIFFE ID: whoever verifies grants knows it as the issuer (design 4)."""
    snapshot = await asyncio.to_thread(source.current)
    if snapshot.spiffe_id != config.gateway.issuer:
        raise ConfigError(
            f"gateway.issuer is {config.gateway.issuer}, but the SVID of this gateway is {snapshot.spiffe_id}: "
            "register the gateway under the issuer's ID"
        )


async def _application(
    config: Config, world: World, instance_id: str, provers: Provers, stack: AsyncExitStack,
    ahead_until: datetime | None,
) -> Application:  # fmt: skip
    source = DirectorySource(config.gateway.policy)
    policy = await asyncio.to_thread(source.load)
    sealer = make_sealer(config.inputs, world.entropy)
    store, beside = await asyncio.to_thread(open_ledger, config.ledger)
    stack.callback(store.close)
    folded = await asyncio.to_thread(lambda: fold_ledger(store, beside.kept(), world.clock.now()))
    snapshots = Snapshots(beside, folded, config.ledger.snapshot_every)
    forgiven = forgive(folded.history, ahead_until, world.clock.now())
    history = replace(folded.history, latest=None) if forgiven else folded.history
    signer = SourceSvidSigner(world.identity)
    recorder = Recorder(
        store, sealer, world.clock, instance_id, signer=signer, followed=snapshots.follow, observer=world.observer
    )
    await recorder.start({"issuer": str(config.gateway.issuer)})
    stack.push_async_callback(recorder.close)
    retention = Retention(store, world.clock, config.inputs.keep_days)
    await retention.start()
    stack.callback(retention.stop)
    keys = SigningKeys(instance_id, signer, world.clock)
    application = _use_cases(config, world, instance_id, policy, source, history, recorder, retention, keys, provers)
    snapshots.begin(recorder, world.clock)
    stack.push_async_callback(snapshots.close)
    events = [*forgiven, application.operating.activation(policy, "gateway")]
    events += [Event(EventType.INSECURE_CHOICE, world.clock.now(), {"choice": choice}) for choice in config.insecure]
    await recorder.record(*events).durable()
    upkeep = Upkeep(
        clock=world.clock, tasks=application.tasks, feed=application.feed, keys=keys, journal=application.recorder
    )
    upkeep.rotate()
    pulse = Pulse(world.clock, upkeep.look, application.feed.heartbeat)
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
    retention: Retention,
    keys: SigningKeys,
    provers: Provers,
) -> Application:
    clock, entropy, observer = world.clock, world.entropy, world.observer
    state = State(policy, linger=timedelta(seconds=config.limits.linger_seconds))
    abandoned = restore(state, history, clock.now())
    if abandoned:
        recorder.record_end(*abandoned)
    deadlines = Deadlines(clock)
    feed = Feed(state=state, clock=clock, entropy=entropy, instance_id=instance_id, head=recorder, observer=observer)
    endings = Endings(state=state, clock=clock, journal=recorder, feed=feed, deadlines=deadlines, observer=observer)
    delivery = Delivery(
        state=state,
        clock=clock,
        entropy=entropy,
        endings=endings,
        deadlines=deadlines,
        signing=Signing(str(config.gateway.issuer), GrantMinter(keys)),
    )
    granting = Granting(
        state=state, clock=clock, entropy=entropy, journal=recorder, endings=endings, delivery=delivery,
        observer=observer,
    )  # fmt: skip
    assigning = Assigning(
        state=state, clock=clock, entropy=entropy, journal=recorder, endings=endings, deadlines=deadlines,
        observer=observer,
    )  # fmt: skip
    operating = Operating(
        state=state, clock=clock, entropy=entropy, journal=recorder, feed=feed, endings=endings, source=source,
        observer=observer,
    )  # fmt: skip
    return Application(
        state=state,
        tasks=Tasks(
            state=state,
            clock=clock,
            entropy=entropy,
            journal=recorder,
            granting=granting,
            handing=Handing(state=state, clock=clock, entropy=entropy, journal=recorder, endings=endings),
            endings=endings,
            resuming=Resuming(state=state, clock=clock, entropy=entropy, journal=recorder, endings=endings),
            prover=provers.subjects,
            observer=observer,
        ),
        assigning=assigning,
        redeeming=Redeeming(state=state, clock=clock, journal=recorder, feed=feed, endings=endings, observer=observer),
        feed=feed,
        operating=operating,
        recorder=recorder,
        retention=retention,
        keys=keys,
        logging_out=LoggingOut(state=state, clock=clock, journal=recorder, endings=endings),
        disowning=Disowning(state=state, endings=endings, prover=provers.subjects),
    )


async def _face(
    config: Config, world: World, identity: FederatedIdentity, instance_id: str, application: Application,
    provers: Provers, metrics: Metrics | None, stack: AsyncExitStack,
) -> tuple[tuple[int, int | None], Oversight]:  # fmt: skip
    clock = world.clock
    denied = DeniedCallers(application.recorder, clock, world.observer)
    quotas = quotas_of(config.limits, clock, world.observer)
    judges = Judges(provers.peers, provers.bearers, denied.record, quotas)
    live = LiveCalls(clock, judges.verify)
    follow = following(
        identity, provers.users, provers.workloads, live=live, disowning=application.disowning, keys=application.keys,
        feed=application.feed,
    )  # fmt: skip
    stack.enter_context(follow)
    stack.enter_context(on_record(identity, provers.users, provers.workloads, clock, application.recorder))
    limits = agent_pb2.Limits(
        live_steps=MAX_LIVE_STEPS, depth=MAX_STEP_DEPTH, arguments_bytes=MAX_ARGUMENTS_BYTES, steps=MAX_STEPS
    )
    speaker = Speaker(str(config.gateway.issuer), instance_id, limits)
    adopt = world.observer.adopt if isinstance(world.observer, Tracing) else None
    agent = AgentService(application.tasks, speaker, live, clock, world.entropy, quotas, adopt)
    operators = frozenset(str(operator) for operator in config.gateway.operators)

    def tail(after: int, follow: bool) -> AsyncIterator[Record]:
        return application.recorder.tail(after, follow=follow)

    services = Services(
        agent,
        VerifierService(application.redeeming, application.feed, live, clock, world.observer),
        OperatorService(application.operating, tail, operators, live, denied.record),
        DispatcherService(application.assigning),
    )
    listeners = Listeners(identity, services, judges, world.transport.carrying(config.limits.open_tasks))
    ports = await listeners.start(config.gateway.listen, config.gateway.listen_bearer)
    watched = Watched(
        state=application.state, recorder=application.recorder, feed=application.feed, keys=application.keys,
        retention=application.retention, live=live, identity=identity, stale=listeners.stale,
        space=DiskSpace(config.ledger.path),
    )  # fmt: skip
    oversight = Oversight(watched, clock, metrics, listeners.show)
    stack.enter_context(oversight.shown(config.metrics))

    async def drain() -> None:
        agent.drain()
        await oversight.drain()
        await listeners.say_draining()
        application.tasks.drain()
        live.drain()
        await listeners.stop(DRAIN_GRACE)

    stack.push_async_callback(drain)
    pulse = Pulse(clock, denied.refill, lambda: _look(identity), oversight.look)
    pulse.start()
    await oversight.begin()
    stack.callback(pulse.stop)
    return ports, oversight


def _look(identity: IdentitySource) -> None:
    """Files are looked at when somebody asks for the identity; so somebody asks. What is wrong, health says."""
    with suppress(IdentityUnavailableError):
        identity.current()
