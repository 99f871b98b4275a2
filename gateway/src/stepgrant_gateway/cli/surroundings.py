"""What `stepgrant doctor` looks at from where a program stands: its variables, its identity, the way to the gateway, the clock.

Each check is made only if those that it rests on went well: one cause is one line.
"""

from __future__ import annotations

import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stepgrant.errors import StepgrantError
from stepgrant_gateway.cli.checks import Check, State, bundle_life, doubtful, failed, good, life, span
from stepgrant_gateway.cli.exits import Exit

if TYPE_CHECKING:
    import grpc

    from stepgrant.link import Address
    from stepgrant.spiffe.ids import SpiffeId
    from stepgrant.spiffe.source import IdentitySnapshot

GATEWAY: Final = "STEPGRANT_GATEWAY"
GATEWAY_ID: Final = "STEPGRANT_GATEWAY_ID"
SOCKET: Final = "SPIFFE_ENDPOINT_SOCKET"
WITHIN: Final = 5.0
"""Seconds that each answer may take."""
CLOSE: Final = timedelta(milliseconds=500)
"""Clocks that are further apart are worth a look, long before grants are refused for it."""

Now = Callable[[], datetime]


def examine(environment: Mapping[str, str], now: Now, *, audience: str = "", required: bool = True) -> Iterator[Check]:
    """Every check, in the order in which one rests on the other. Blocking.

    `audience`: one that this workload verifies grants for; the gateway then tells its time. Not `required`: variables that
    are not set are a warning, for who looks after gateway.toml only.
    """
    variables = [_variable(name, environment, required=required) for name in (GATEWAY, GATEWAY_ID, SOCKET)]
    yield from variables
    if variables[2].state is not State.OK:
        return
    found = _workload_api(environment[SOCKET])
    yield found
    if found.state is not State.FAILED:
        gateway = variables[0].state is variables[1].state is State.OK
        yield from _identified(environment, now, audience, ask_gateway=gateway)


def _variable(name: str, environment: Mapping[str, str], *, required: bool) -> Check:
    value = environment.get(name, "")
    if not value:
        todo = f"export {name}=..., or start through: stepgrant dev run IDENTITY -- stepgrant doctor"
        return failed(name, "is not set", todo, Exit.USAGE) if required else doubtful(name, "is not set", todo)
    try:
        _parsed(name, value)
    except StepgrantError as error:
        return failed(name, str(error), f"export {name}=...", Exit.USAGE)
    return good(name, value)


def _parsed(name: str, value: str) -> None:
    from stepgrant.client import parse_address
    from stepgrant.spiffe.ids import parse_spiffe_id

    if name == GATEWAY:
        parse_address(value, name)
    elif name == GATEWAY_ID:
        parse_spiffe_id(value, what=name)


def _workload_api(address: str) -> Check:
    name = "Workload API"
    scheme, colon, rest = address.partition(":")
    if not colon or scheme not in {"unix", "tcp"}:
        return failed(name, f"{address} is no address", f"export {SOCKET}=unix:/path/of/its.sock", Exit.USAGE)
    if scheme == "tcp":
        return good(name, f"{address} is not looked at by itself; the SVID says whether it answers")
    path = Path("/" + rest.lstrip("/"))
    start = (
        "start the SPIFFE agent (SPIRE: spire-agent run; for trying things out: stepgrant dev), or correct the variable"
    )
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return failed(name, f"{path} is no socket", start, Exit.UNAVAILABLE)
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
            probe.settimeout(WITHIN)
            probe.connect(str(path))
    except PermissionError:
        return failed(name, f"{path} may not be opened by this user", f"ls -l {path}", Exit.UNAVAILABLE)
    except OSError as error:
        return failed(name, f"{path}: {error.strerror or error}", start, Exit.UNAVAILABLE)
    return good(name, f"{path} takes connections")


def _identified(environment: Mapping[str, str], now: Now, audience: str, *, ask_gateway: bool) -> Iterator[Check]:
    from stepgrant.client import parse_address
    from stepgrant.spiffe.ids import parse_spiffe_id
    from stepgrant.spiffe.workload import WorkloadApiSource

    with closing(WorkloadApiSource(environment[SOCKET], now=now)) as source:
        try:
            snapshot = source.current()
        except StepgrantError as error:
            todo = "register this workload with the SPIFFE server (SPIRE: spire-server entry create ...)"
            yield failed("SVID", str(error), todo, Exit.UNAVAILABLE)
            return
        yield life("SVID", str(snapshot.spiffe_id), snapshot.not_before, snapshot.not_after, now())
        yield from bundle_life(snapshot.bundles, now())
        if ask_gateway:
            expected = parse_spiffe_id(environment[GATEWAY_ID], what=GATEWAY_ID)
            yield from _gateway(parse_address(environment[GATEWAY], GATEWAY), expected, snapshot, now, audience)


def _gateway(
    address: Address, expected: SpiffeId, snapshot: IdentitySnapshot, now: Now, audience: str
) -> Iterator[Check]:
    import grpc

    from stepgrant.spiffe.probe import grpc_channel_credentials, probe_server

    try:
        pinned = probe_server(address.host, address.port, expected, snapshot, now())
        credentials, options = grpc_channel_credentials(snapshot, pinned)
    except StepgrantError as error:
        todo = f"see that it runs (stepgrant serve), and that {GATEWAY} and {GATEWAY_ID} are its own"
        yield failed("gateway", str(error), todo, Exit.UNAVAILABLE)
        return
    first = min(pinned.svids, key=lambda svid: svid.not_after)
    who = f"{address.target} proved to be {expected}"
    yield life("gateway", who, first.not_before, first.not_after, now())
    with grpc.secure_channel(address.target, credentials, options) as channel:
        yield _health(channel)
        accepted = _accepted(channel, snapshot.spiffe_id)
        yield accepted
        if accepted.state is State.OK:
            yield _clock(channel, audience, now)


def _health(channel: grpc.Channel) -> Check:
    """What the gateway says of itself; it says more in its log, and in its metrics."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    name = "health"
    try:
        told = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=WITHIN).status
    except grpc.RpcError as error:
        return failed(
            name, f"the gateway does not say how it is: {_details(error)}", "look at its log", Exit.UNAVAILABLE
        )
    if told != health_pb2.HealthCheckResponse.SERVING:
        says = f"the gateway says {health_pb2.HealthCheckResponse.ServingStatus.Name(told)}: it grants nothing now"
        return failed(
            name, says, "look at its log, and at /readyz if gateway.toml has metrics.address", Exit.UNAVAILABLE
        )
    return good(name, "the gateway says that it serves")


def _accepted(channel: grpc.Channel, me: SpiffeId) -> Check:
    """Whether the gateway verified our SVID: only then it says the first word of a stream. No task is opened."""
    import grpc

    from stepgrant.v1.agent_pb2_grpc import AgentGatewayStub

    name = "accepted"
    try:
        challenge = next(iter(AgentGatewayStub(channel).PerformTask(iter(()), timeout=WITHIN)))
    except (grpc.RpcError, StopIteration) as error:
        if _status(error) is grpc.StatusCode.UNAUTHENTICATED:
            todo = "compare the trust domain and the bundles of the two; the gateway's log says why"
            return failed(name, f"the gateway does not take {me}: {_details(error)}", todo, Exit.NOT_ALLOWED)
        return failed(name, f"the gateway does not serve: {_details(error)}", "look at its log", Exit.UNAVAILABLE)
    return good(name, f"the gateway takes {me}, protocol revision {challenge.challenge.revision}")


def _clock(channel: grpc.Channel, audience: str, now: Now) -> Check:
    """The offset to the gateway's clock, which only subscribers are told outside of a task; never guessed otherwise."""
    import grpc

    from stepgrant.grant import LEEWAY
    from stepgrant.v1.verifier_pb2 import WatchRequest
    from stepgrant.v1.verifier_pb2_grpc import GrantVerifierStub

    name = "clock"
    if not audience:
        return good(
            name, "this SVID and the gateway's are both valid by it; a resource compares it with --audience ITS_OWN"
        )
    asked = now()
    try:
        events = iter(GrantVerifierStub(channel).Watch(WatchRequest(audiences=[audience]), timeout=WITHIN))
        told = next(events).snapshot.heartbeat.at_unix_ms
    except (grpc.RpcError, StopIteration) as error:
        todo = f"name an audience that the catalog gives to this workload (verifiers); {audience} may be another's"
        return doubtful(name, f"the gateway does not say its time: {_details(error)}", todo)
    doubt = (now() - asked) / 2
    offset = asked + doubt - datetime.fromtimestamp(told / 1000, asked.tzinfo)
    way = "ahead of" if offset > timedelta(0) else "behind"
    seconds = abs(offset).total_seconds()
    says = f"{seconds:.3f} s {way} the gateway's, give or take {doubt.total_seconds():.3f} s"
    todo = "set both clocks by NTP (chronyc tracking, timedatectl)"
    if abs(offset) - doubt > LEEWAY:
        return failed(name, f"{says}; more than {span(LEEWAY)} apart nothing is accepted", todo, Exit.UNAVAILABLE)
    return doubtful(name, says, todo) if abs(offset) - doubt > CLOSE else good(name, says)


def _status(error: Exception) -> object:
    return getattr(error, "code", lambda: None)()


def _details(error: Exception) -> str:
    return str(getattr(error, "details", lambda: "")() or "it ended without a word")
