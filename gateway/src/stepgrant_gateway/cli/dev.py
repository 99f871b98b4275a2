"""`stepgrant dev`: an embedded trust domain for trying things out, and programs run as one of its identities."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from stepgrant_gateway.cli.exits import EPILOG, reported
from stepgrant_gateway.cli.output import AsJson, print_json, print_line
from stepgrant_gateway.core.errors import ConfigError, NotFoundError

if TYPE_CHECKING:
    from stepgrant_gateway.config import Config
    from stepgrant_gateway.core.settings import Address
    from stepgrant_gateway.identity.dev_settings import DevSettings
    from stepgrant_gateway.identity.dev_workload_api import DevWorkloadApi

program = typer.Typer(help="An embedded SPIFFE trust domain, never for production.", invoke_without_command=True)
DIRECTORY: Final = Path(".stepgrant-dev")
STATE_FILE: Final = "dev.json"
"""In the directory of the sockets: what `dev run` has to know."""
PASSED: Final = {"allow_extra_args": True, "ignore_unknown_options": True}

Directory = Annotated[
    Path, typer.Option("--directory", "-d", help="Directory of the sockets; 0700. Keep the path short (Unix sockets).")
]


@program.callback(epilog=EPILOG)
@reported
def dev(
    context: typer.Context,
    config: Annotated[Path, typer.Option("--config", "-c", help="dev.toml: the identities.")] = Path("dev.toml"),
    gateway: Annotated[
        Path | None, typer.Option("--gateway", "-g", help="gateway.toml: run this gateway as well.")
    ] = None,
    directory: Directory = DIRECTORY,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    as_json: AsJson = False,
) -> None:
    """Starts the trust domain, one Workload API socket for each identity, and with --gateway the gateway; until SIGTERM."""
    if context.invoked_subcommand is not None:
        return
    from stepgrant_gateway.cli.logs import log_to_stderr
    from stepgrant_gateway.config import load_config
    from stepgrant_gateway.identity.dev_settings import parse_dev_toml

    settings = parse_dev_toml(_read(config), file=config)
    loaded = None if gateway is None else load_config(gateway)
    log_to_stderr(verbose=verbose)
    asyncio.run(_dev(settings, loaded, directory.absolute(), as_json=as_json))


@program.command("run", context_settings=PASSED, epilog=EPILOG)
@reported
def run(
    context: typer.Context,
    identity: Annotated[str, typer.Argument(help="Identity of dev.toml, such as agent/support.")],
    directory: Directory = DIRECTORY,
    jwt: Annotated[
        bool, typer.Option("--jwt", help="It shows the gateway a JWT-SVID in place of a certificate.")
    ] = False,
) -> None:
    """Runs a command as that identity: `stepgrant dev run agent/support -- python agent.py`."""
    command = context.args
    if not command:
        raise typer.BadParameter("say what to run after --")
    environment = {**os.environ, **variables(read_state(directory), identity, jwt=jwt)}
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606 - running the user's command is the purpose
    except FileNotFoundError as error:
        raise NotFoundError(f"{command[0]}: there is no such command") from error


def _read(config: Path) -> str:
    try:
        return config.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{config}: cannot be read: {error.strerror}; name the file with --config") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{config}: is not UTF-8 at byte {error.start}") from error


def read_state(directory: Path) -> Mapping[str, Any]:
    """What the running `stepgrant dev` left for us; raises NotFoundError."""
    try:
        document = json.loads((directory / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotFoundError(
            f"no `stepgrant dev` runs with its sockets in {directory}: start it there, or name its --directory"
        ) from error
    if not isinstance(document, dict):
        raise NotFoundError(f"{directory / STATE_FILE} was not written by `stepgrant dev`")
    return document


def variables(state: Mapping[str, Any], identity: str, *, jwt: bool = False) -> Mapping[str, str]:
    """The environment of a program that runs as `identity`; gateway variables that are set already stay.

    With `jwt` it shows the gateway of `stepgrant dev` a JWT-SVID, at that one's listener for bearer tokens.
    """
    socket = state["sockets"].get(identity)
    if socket is None:
        raise NotFoundError(f"dev.toml lists no identity {identity!r}; it has {', '.join(sorted(state['sockets']))}")
    found = {"SPIFFE_ENDPOINT_SOCKET": socket}
    if jwt:
        if not state.get("gateway_bearer"):
            raise NotFoundError("no gateway listens for bearer tokens: set gateway.listen_bearer in its gateway.toml")
        return {
            **found,
            "STEPGRANT_GATEWAY": state["gateway_bearer"],
            "STEPGRANT_GATEWAY_ID": state["gateway_id"],
            "STEPGRANT_CREDENTIAL": "jwt",
        }
    if state.get("gateway"):
        found |= {"STEPGRANT_GATEWAY": state["gateway"], "STEPGRANT_GATEWAY_ID": state["gateway_id"]}
    return found


async def _dev(settings: DevSettings, config: Config | None, directory: Path, *, as_json: bool) -> None:
    from stepgrant_gateway.cli.serve import until_signalled
    from stepgrant_gateway.identity.dev import DevTrustDomain
    from stepgrant_gateway.identity.dev_federation import BUNDLE_FILE, BundleFiles, write_bundle
    from stepgrant_gateway.identity.dev_workload_api import DevWorkloadApi
    from stepgrant_gateway.system import SystemClock

    stop = until_signalled()
    clock = SystemClock()
    domain = DevTrustDomain(settings.identities, clock.now, trust_domain=settings.trust_domain)
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(DevWorkloadApi(domain, directory, clock, BundleFiles(settings.federated)))
        bundle = directory / BUNDLE_FILE
        write_bundle(bundle, domain.document)
        stack.callback(lambda: bundle.unlink(missing_ok=True))
        state: dict[str, Any] = {
            "ready": True,
            "trust_domain": domain.trust_domain,
            "directory": str(directory),
            "bundle": str(bundle),
            "sockets": {identity.path: api.socket_for(identity.path) for identity in settings.identities},
        }
        if config is not None:
            state |= await _gateway(config, domain.trust_domain, api, stack)
        file = directory / STATE_FILE
        file.write_text(json.dumps(state), encoding="utf-8")
        stack.callback(lambda: file.unlink(missing_ok=True))
        if as_json:
            print_json(state)
        else:
            _explain(state)
        await stop.wait()


async def _gateway(config: Config, trust_domain: str, api: DevWorkloadApi, stack: AsyncExitStack) -> dict[str, Any]:
    from stepgrant.spiffe.workload import WorkloadApiSource
    from stepgrant_gateway.system import SystemClock, system_entropy
    from stepgrant_gateway.wiring import Gateway, World

    issuer = config.gateway.issuer
    if issuer.trust_domain != trust_domain:
        raise ConfigError(f"gateway.issuer is {issuer}; with this dev.toml it lies in spiffe://{trust_domain}/")
    bearer = config.gateway.listen_bearer
    source = WorkloadApiSource(api.socket_for(issuer.path.removeprefix("/")), jwt_authorities=bearer is not None)
    running = await stack.enter_async_context(Gateway.start(config, World(SystemClock(), system_entropy, source)))
    state = {
        "gateway": f"{_host(config.gateway.listen)}:{running.port}",
        "gateway_id": str(issuer),
        "instance": running.instance_id,
    }
    if bearer is not None:
        state["gateway_bearer"] = f"{_host(bearer)}:{running.bearer_port}"
    return state


def _host(address: Address) -> str:
    return "localhost" if address.is_loopback else address.host


def _explain(state: Mapping[str, Any]) -> None:
    name = state["trust_domain"]
    print_line(f"The trust domain {name} is up. Its authority lives in memory; never use it in production.")
    print_line(f"Its bundle, for [federated] in another's dev.toml: {state['bundle']}")
    if state.get("gateway"):
        print_line(f"The gateway {state['gateway_id']} serves at {state['gateway']}.")
    if state.get("gateway_bearer"):
        print_line(f"It takes JWT-SVIDs at {state['gateway_bearer']}: stepgrant dev run --jwt.")
    print_line("Run a program as one of its identities:")
    default = state["directory"] == str(DIRECTORY.absolute())
    where = "" if default else f" --directory {state['directory']}"
    for identity in state["sockets"]:
        print_line(f"  stepgrant dev run{where} {identity} -- COMMAND")
    print_line("Ctrl-C ends it.")
