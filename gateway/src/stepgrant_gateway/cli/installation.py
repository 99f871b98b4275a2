"""What `stepgrant doctor --config` looks at where a gateway is installed: its settings, identity, policy, ledger, recipients.

Nothing is changed, and no file is made; a gateway may be running.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import datetime
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stepgrant.errors import StepgrantError
from stepgrant_gateway.cli.checks import Check, State, bundle_life, doubtful, failed, good, life
from stepgrant_gateway.cli.endpoints import examine_endpoints
from stepgrant_gateway.cli.exits import Exit
from stepgrant_gateway.cli.identity_failures import Source, dns_name, without_identity
from stepgrant_gateway.cli.issuers import examine_issuers
from stepgrant_gateway.cli.records import examine_ledger
from stepgrant_gateway.cli.registration import PARENT, create_entry
from stepgrant_gateway.cli.sockets import socket_path, workload_api
from stepgrant_gateway.core.errors import ConfigError, Finding

if TYPE_CHECKING:
    from stepgrant.spiffe.ids import SpiffeId
    from stepgrant_gateway.config import Config
    from stepgrant_gateway.core.settings import Address

WITHIN: Final = 5.0
"""Seconds that the page of a gateway may take."""
MAX_PAGE: Final = 64 * 1024
BESIDE: Final = ("-wal", "-shm", ".lock", ".snapshot", ".snapshot-before", ".federation", ".federation-before")
"""Endings of the files beside a ledger: made for its owner alone, as the ledger is."""
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

Now = Callable[[], datetime]


def inspect(file: Path, environment: Mapping[str, str], now: Now) -> Iterator[Check]:
    """Every check of one gateway.toml and of what it names."""
    from stepgrant_gateway.config import load_config

    try:
        config = load_config(file)
    except ConfigError as error:
        yield failed("gateway.toml", str(error), f"correct {file}; docs/policy.md lists the settings", Exit.REFUSED)
        return
    yield _settings(config)
    if config.identity.source == "files" or config.identity.socket is not None:
        yield from _identity(config, environment, now)
    yield from examine_endpoints(config, environment, now)
    yield from examine_issuers(config)
    yield _policy(config.gateway.policy)
    if config.ledger.path is not None:
        ledger = _ledger(config.ledger.path)
        yield ledger
        if ledger.state is not State.FAILED:
            yield from examine_ledger(config.ledger.path, _digest(config.gateway.policy), now)
    if config.metrics.address is not None:
        yield _readiness(config.metrics.address)
    for recipient in config.inputs.recipients:
        yield _recipient(recipient)


def _settings(config: Config) -> Check:
    if config.file.stat().st_mode & _OTHERS_WRITE:
        return _open_to_others("gateway.toml", config.file)
    if config.insecure:
        chosen = ", ".join(config.insecure)
        return doubtful("gateway.toml", f"{config.file} chooses {chosen}", f"take {chosen} out before production")
    return good("gateway.toml", f"{config.file} is complete")


def _identity(config: Config, environment: Mapping[str, str], now: Now) -> Iterator[Check]:
    """The SVID that the gateway will show; from the socket of the environment it is what this very process is."""
    from stepgrant.spiffe.probe import server_names
    from stepgrant_gateway.system import identity_source

    name, settings, issuer = "gateway's SVID", config.identity, config.gateway.issuer
    if settings.socket is not None:
        found = workload_api(settings.socket, f"identity.socket in {config.file}")
        yield found
        if found.state is State.FAILED:
            return
    origin = Source(
        str(issuer), socket_path(settings.socket or ""), settings.chain, settings.key, settings.bundle, dns="gateway"
    )
    try:
        with closing(identity_source(settings, environment)) as source:
            snapshot = source.current()
    except (StepgrantError, ConfigError) as error:
        yield without_identity(name, error, origin, now())
        return
    if snapshot.spiffe_id != issuer:
        yield _another(name, snapshot.spiffe_id, issuer)
        return
    yield life(name, str(snapshot.spiffe_id), snapshot.not_before, snapshot.not_after, now(), origin.look)
    yield dns_name("gateway's DNS name", str(issuer), server_names(snapshot.chain_der[0]), "gateway")
    yield from bundle_life(snapshot.bundles, now())


def _another(name: str, found: SpiffeId, issuer: SpiffeId) -> Check:
    """The SVID is another's: of another trust domain, or of the same."""
    says = f"is {found}, but gateway.issuer is {issuer}"
    if found.trust_domain != issuer.trust_domain:
        says += f": the trust domains differ, and an authority of {found.trust_domain} cannot make the issuer's SVID"
        return failed(
            name,
            says,
            "correct gateway.issuer, or take the identity from the SPIFFE agent of that domain",
            Exit.REFUSED,
        )
    todo = f"register the gateway under the issuer's ID. {PARENT}"
    return failed(name, says, todo, Exit.REFUSED, create_entry(str(issuer), os.geteuid(), dns="gateway"))


def _policy(directory: Path) -> Check:
    from stepgrant_gateway.core.errors import PolicyRefusedError
    from stepgrant_gateway.policy.directory import read_directory
    from stepgrant_gateway.policy.load import check_policy

    name = "policy"
    try:
        files = read_directory(directory)
    except PolicyRefusedError as error:
        return _refused(directory, error.findings)
    report = check_policy(directory)
    if report.findings:
        return _refused(directory, report.findings)
    for path in (directory, *(directory / file for file in files)):
        if path.stat().st_mode & _OTHERS_WRITE:
            return _open_to_others(name, path)
    says = f"{directory}: {report.policies} policies, {report.tools} tools, {report.cases} golden cases pass"
    if report.warnings:
        return doubtful(
            name, f"{says}; {len(report.warnings)} warnings", "read them", f"stepgrant policy check {directory}"
        )
    return good(name, says)


def _digest(directory: Path) -> str | None:
    from stepgrant_gateway.core.errors import PolicyRefusedError
    from stepgrant_gateway.policy.directory import directory_digest, read_directory

    try:
        return directory_digest(read_directory(directory))
    except PolicyRefusedError:
        return None


def _refused(directory: Path, findings: tuple[Finding, ...]) -> Check:
    says = f"{directory} is refused: {len(findings)} findings, the first: {findings[0]}"
    return failed("policy", says, "correct them all", Exit.REFUSED, f"stepgrant policy check {directory}")


def _ledger(path: Path) -> Check:
    name = "ledger"
    folder = path.parent
    if not folder.is_dir():
        return failed(name, f"{folder} is not there", "make it", Exit.UNAVAILABLE, f"mkdir -p {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        says = f"{folder} cannot be written by this user"
        return failed(
            name, says, "run as the gateway's user, or give it to this one", Exit.UNAVAILABLE, f"chown USER {folder}"
        )
    if path.exists():
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            return failed(name, f"{path} is not a file", "name the ledger's file in ledger.path", Exit.UNAVAILABLE)
        if mode & _OTHERS:
            says = f"{path} has mode {stat.S_IMODE(mode):04o}: others can read or write it, and no gateway opens it"
            return failed(name, says, "close it", Exit.UNAVAILABLE, f"chmod 600 {path}")
        if not os.access(path, os.R_OK | os.W_OK):
            says = f"{path} cannot be read and written by this user"
            return failed(
                name, says, "run as the gateway's user, or give it to this one", Exit.UNAVAILABLE, f"chown USER {path}"
            )
    for other in (folder / f"{path.name}{ending}" for ending in BESIDE):
        if other.exists() and other.stat().st_mode & _OTHERS:
            return doubtful(name, f"{other} can be read or written by others", "close it", f"chmod 600 {other}")
    if folder.stat().st_mode & stat.S_IWOTH and not folder.stat().st_mode & stat.S_ISVTX:
        return _open_to_others(name, folder)
    state = "is its owner's alone" if path.exists() else "will be made at the first start"
    return good(name, f"{path} {state}; its chain is verified by `stepgrant audit verify`")


def _readiness(address: Address) -> Check:
    """What a running gateway says of itself on its page for machines; nobody there is a warning, since it may be stopped."""
    name = "readiness"
    url = f"http://{address}/readyz"
    try:
        with closing(HTTPConnection(address.host, address.port, timeout=WITHIN)) as connection:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            told = json.loads(answer.read(MAX_PAGE))
        troubles = ", ".join(f"{check}: {why}" for check, why in told["troubles"].items())
    except (OSError, HTTPException, ValueError, KeyError, TypeError, AttributeError) as error:
        says = f"{url} does not say: {getattr(error, 'strerror', None) or type(error).__name__}"
        return doubtful(name, says, "start the gateway (stepgrant serve), or see who else listens there")
    if answer.status != HTTPStatus.OK:
        return failed(name, f"{url} says {troubles}", "docs/operations.md#alarms says what to do", Exit.UNAVAILABLE)
    return good(name, f"{url} says that the gateway can do its work")


def _recipient(path: Path) -> Check:
    from stepgrant_gateway.storage.inputs import recipient_from_pem

    name = "recipient"
    todo, command = "it must be a public X25519 key", f"openssl pkey -pubin -in {path} -text -noout"
    try:
        recipient_from_pem(path.read_bytes())
    except ConfigError as error:
        return failed(name, f"{path}: {error}", todo, Exit.REFUSED, command)
    except OSError as error:
        return failed(name, f"{path}: {error.strerror}", todo, Exit.REFUSED, command)
    return good(name, f"{path} is a public key that inputs are sealed to")


def _open_to_others(name: str, path: Path) -> Check:
    says = f"{path} can be written by others, who then decide in the operator's place"
    return doubtful(name, says, "close it", f"chmod go-w {path}")
