"""What `stepgrant doctor` looks at from where a program stands: its variables, its identity, the way to the gateway, the clock.

Each check is made only if those that it rests on went well: one cause is one line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stepgrant.errors import NobodyListensError, StepgrantError
from stepgrant_gateway.cli.checks import Check, State, bundle_life, doubtful, failed, good, life, span
from stepgrant_gateway.cli.exits import Exit
from stepgrant_gateway.cli.identity_failures import Source, dns_name, without_identity
from stepgrant_gateway.cli.sockets import WITHIN, socket_path, workload_api

if TYPE_CHECKING:
    import grpc

    from stepgrant.link import Address
    from stepgrant.spiffe.ids import SpiffeId
    from stepgrant.spiffe.source import IdentitySnapshot, JwtSvid

GATEWAY: Final = "STEPGRANT_GATEWAY"
GATEWAY_ID: Final = "STEPGRANT_GATEWAY_ID"
SOCKET: Final = "SPIFFE_ENDPOINT_SOCKET"
CREDENTIAL: Final = "STEPGRANT_CREDENTIAL"
SHOWN_FILE: Final = "STEPGRANT_TOKEN_FILE"
BUNDLE_FILE: Final = "STEPGRANT_BUNDLE_FILE"
MEANS: Final = {
    GATEWAY: "where the gateway listens, name and port",
    GATEWAY_ID: "the gateway's SPIFFE ID, gateway.issuer of its gateway.toml",
    SOCKET: "where the SPIFFE agent of this machine serves the Workload API",
    SHOWN_FILE: "the file with the OIDC token of this program",
    BUNDLE_FILE: "a PEM file with the authorities of the gateway's trust domain",
}
EXAMPLES: Final = {
    GATEWAY: "stepgrant.acme.org:8443",
    GATEWAY_ID: "spiffe://acme.org/stepgrant",
    SOCKET: "unix:/run/spire/agent.sock",
    SHOWN_FILE: "/var/run/secrets/stepgrant/token",
    BUNDLE_FILE: "/etc/stepgrant/bundle.pem",
}
CLOSE: Final = timedelta(milliseconds=500)
"""Clocks that are further apart are worth a look, long before grants are refused for it."""

Now = Callable[[], datetime]


def examine(environment: Mapping[str, str], now: Now, *, audience: str = "", required: bool = True) -> Iterator[Check]:
    """Every check, in the order in which one rests on the other. Blocking.

    `audience`: one that this workload verifies grants for; the gateway then tells its time. Not `required`: variables that
    are not set are a warning, for who looks after gateway.toml only.
    """
    if environment.get(CREDENTIAL) == "oidc":
        yield from _without_spiffe(environment, now)
        return
    variables = [_variable(name, environment, required=required) for name in (GATEWAY, GATEWAY_ID, SOCKET)]
    yield from variables
    if variables[2].state is not State.OK:
        return
    found = workload_api(environment[SOCKET], SOCKET)
    yield found
    if found.state is not State.FAILED:
        gateway = variables[0].state is variables[1].state is State.OK
        yield from _identified(environment, now, audience, ask_gateway=gateway)


def _without_spiffe(environment: Mapping[str, str], now: Now) -> Iterator[Check]:
    """A program that shows an OIDC token: no agent is asked, and the gateway is known by a file."""
    from stepgrant.link import parse_address
    from stepgrant.spiffe.ids import parse_spiffe_id
    from stepgrant.spiffe.token_file import TokenFileSource

    variables = [_variable(name, environment, required=True) for name in (GATEWAY, GATEWAY_ID, SHOWN_FILE, BUNDLE_FILE)]
    yield from variables
    if any(variable.state is not State.OK for variable in variables):
        return
    expected = parse_spiffe_id(environment[GATEWAY_ID], what=GATEWAY_ID)
    files = Path(environment[SHOWN_FILE]), Path(environment[BUNDLE_FILE])
    with closing(TokenFileSource(*files, trust_domain=expected.trust_domain, now=now)) as source:
        try:
            snapshot = source.current()
        except StepgrantError as error:
            todo = "have the platform put a token for this gateway there, and the authorities beside it"
            yield failed("OIDC token", str(error), todo, Exit.UNAVAILABLE)
            return
    yield good("OIDC token", f"{files[0]} holds one that is valid for another {span(snapshot.not_after - now())}")
    yield from bundle_life(snapshot.bundles, now())
    yield from _gateway(parse_address(environment[GATEWAY], GATEWAY), expected, snapshot, now, "")


def _variable(name: str, environment: Mapping[str, str], *, required: bool) -> Check:
    value = environment.get(name, "")
    if not value:
        todo, command = f"{MEANS[name]}; with stepgrant dev", "stepgrant dev run IDENTITY -- stepgrant doctor"
        if required:
            return failed(name, "is not set", todo, Exit.USAGE, f"export {name}={EXAMPLES[name]}\n{command}")
        return doubtful(name, "is not set: nothing is looked at from where a program stands", todo, command)
    try:
        _parsed(name, value)
    except StepgrantError as error:
        return failed(name, str(error), MEANS[name], Exit.USAGE, f"export {name}={EXAMPLES[name]}")
    return good(name, value)


def _parsed(name: str, value: str) -> None:
    from stepgrant.link import parse_address
    from stepgrant.spiffe.ids import parse_spiffe_id

    if name == GATEWAY:
        parse_address(value, name)
    elif name == GATEWAY_ID:
        parse_spiffe_id(value, what=name)


def _identified(environment: Mapping[str, str], now: Now, audience: str, *, ask_gateway: bool) -> Iterator[Check]:
    from stepgrant.link import parse_address
    from stepgrant.spiffe.ids import parse_spiffe_id
    from stepgrant.spiffe.probe import server_names
    from stepgrant.spiffe.workload import WorkloadApiSource

    trust_domain = environment[GATEWAY_ID].split("/")[2] if ask_gateway else "TRUST_DOMAIN"
    origin = Source(f"spiffe://{trust_domain}/WORKLOAD", socket_path(environment[SOCKET]))
    with closing(WorkloadApiSource(environment[SOCKET], now=now)) as source:
        try:
            snapshot = source.current()
        except StepgrantError as error:
            yield without_identity("SVID", error, origin, now())
            return
        yield life("SVID", str(snapshot.spiffe_id), snapshot.not_before, snapshot.not_after, now(), origin.look)
        yield from bundle_life(snapshot.bundles, now())
        if ask_gateway:
            expected = parse_spiffe_id(environment[GATEWAY_ID], what=GATEWAY_ID)
            if snapshot.spiffe_id == expected:
                yield dns_name("DNS name", str(expected), server_names(snapshot.chain_der[0]), "gateway")
            if environment.get(CREDENTIAL) == "jwt":
                token = _token(environment[SOCKET], snapshot.spiffe_id, str(expected), now)
                if isinstance(token, Check):
                    yield token
                    return
                snapshot = replace(snapshot, jwt_svid=token)
                left = span(token.not_after - now())
                yield good("JWT-SVID", f"{token.spiffe_id} for {expected}, valid for another {left}")
            yield from _gateway(parse_address(environment[GATEWAY], GATEWAY), expected, snapshot, now, audience)


def _token(socket: str, me: SpiffeId, audience: str, now: Now) -> JwtSvid | Check:
    """The JWT-SVID that a program here would show, or why there is none."""
    from stepgrant.spiffe.jwt import read_own_jwt_svid
    from stepgrant.spiffe.jwt_workload import fetch_jwt_svid

    try:
        return read_own_jwt_svid(fetch_jwt_svid(socket, me, audience), me, audience, now())
    except StepgrantError as error:
        todo = f"see that the SPIFFE agent mints JWT-SVIDs, or show the certificate: {CREDENTIAL}=x509"
        return failed("JWT-SVID", str(error), todo, Exit.UNAVAILABLE)


def _gateway(
    address: Address, expected: SpiffeId, snapshot: IdentitySnapshot, now: Now, audience: str
) -> Iterator[Check]:
    import grpc

    from stepgrant.spiffe.probe import grpc_channel_credentials, probe_server

    if snapshot.bundles.get(expected.trust_domain) is None:
        yield _stranger(expected, snapshot)
        return
    try:
        pinned = probe_server(address.host, address.port, expected, snapshot, now())
        certificate = snapshot.jwt_svid is None
        credentials, options = grpc_channel_credentials(snapshot, pinned, show_certificate=certificate)
    except StepgrantError as error:
        yield _not_reached(address, expected, error)
        return
    first = min(pinned.svids, key=lambda svid: svid.not_after)
    who = f"{address.target} proved to be {expected}"
    yield life("gateway", who, first.not_before, first.not_after, now())
    with grpc.secure_channel(address.target, credentials, options) as channel:
        yield _health(channel, certificate=certificate)
        me = str(snapshot.spiffe_id) if snapshot.chain_der else "the token"
        accepted = _accepted(channel, me, snapshot.bearer)
        yield accepted
        if accepted.state is State.OK and certificate:
            yield _clock(channel, audience, now)


def _stranger(expected: SpiffeId, snapshot: IdentitySnapshot) -> Check:
    known = ", ".join(sorted(bundle.trust_domain for bundle in snapshot.bundles))
    says = f"{GATEWAY_ID} is of trust domain {expected.trust_domain}; what is known here is {known}"
    todo = f"correct {GATEWAY_ID}; or federate the two, and have the entry of {snapshot.spiffe_id} say so; with SPIRE"
    commands = f"spire-server federation list\nspire-server entry show -spiffeID {snapshot.spiffe_id}"
    return failed("gateway", says, todo, Exit.UNAVAILABLE, commands)


def _not_reached(address: Address, expected: SpiffeId, error: StepgrantError) -> Check:
    """Nobody there, nobody whom gRPC can connect to, or somebody else."""
    text, name = str(error), "gateway"
    if isinstance(error, NobodyListensError):
        todo = f"start it there, or correct {GATEWAY}"
        return failed(
            name, f"nobody listens at {address.target}", todo, Exit.UNAVAILABLE, "stepgrant serve --config gateway.toml"
        )
    if "share no DNS name" in text:
        return dns_name(name, str(expected), (), address.host)
    says = text.removesuffix("; check that it runs there, and the address and the SPIFFE ID that were asked for")
    todo = f"compare {GATEWAY} and {GATEWAY_ID} with gateway.listen and gateway.issuer in its gateway.toml"
    return failed(name, says, todo, Exit.UNAVAILABLE)


def _health(channel: grpc.Channel, *, certificate: bool) -> Check:
    """What the gateway says of itself; it says more in its log, and in its metrics."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    name = "health"
    try:
        told = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=WITHIN).status
    except grpc.RpcError as error:
        todo = "look at its log" if certificate else f"see that {GATEWAY} names the port of gateway.listen_bearer"
        return failed(name, f"the gateway does not say how it is: {_details(error)}", todo, Exit.UNAVAILABLE)
    if told != health_pb2.HealthCheckResponse.SERVING:
        says = f"the gateway says {health_pb2.HealthCheckResponse.ServingStatus.Name(told)}: it grants nothing now"
        return failed(
            name, says, "look at its log, and at /readyz if gateway.toml has metrics.address", Exit.UNAVAILABLE
        )
    return good(name, "the gateway says that it serves")


def _accepted(channel: grpc.Channel, me: str, bearer: tuple[tuple[str, str], ...] = ()) -> Check:
    """Whether the gateway verified our SVID: only then it says the first word of a stream. No task is opened."""
    import grpc

    from stepgrant.v1.agent_pb2_grpc import AgentGatewayStub

    name = "accepted"
    try:
        challenge = next(iter(AgentGatewayStub(channel).PerformTask(iter(()), timeout=WITHIN, metadata=bearer)))
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
    todo, command = "set both clocks by NTP", "chronyc tracking"
    if abs(offset) - doubt > LEEWAY:
        says += f"; more than {span(LEEWAY)} apart nothing is accepted"
        return failed(name, says, todo, Exit.UNAVAILABLE, command)
    return doubtful(name, says, todo, command) if abs(offset) - doubt > CLOSE else good(name, says)


def _status(error: Exception) -> object:
    return getattr(error, "code", lambda: None)()


def _details(error: Exception) -> str:
    return str(getattr(error, "details", lambda: "")() or "it ended without a word")
