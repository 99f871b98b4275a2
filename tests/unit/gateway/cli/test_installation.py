"""What `stepgrant doctor --config` finds where a gateway is installed."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from http import HTTPStatus

import pytest

from stepgrant_gateway.cli.checks import State
from stepgrant_gateway.cli.exits import Exit
from stepgrant_gateway.cli.installation import BESIDE, inspect
from stepgrant_gateway.core.settings import Address
from stepgrant_gateway.storage.inputs import make_recipient
from stepgrant_gateway.web.listener import Listener, Page
from tests.kit.ca import TestAuthority
from tests.kit.clock import START
from tests.kit.running import SUPPORT_POLICY

AUTHORITY = TestAuthority()
ISSUER = "spiffe://acme.org/stepgrant"
TOML = """\
[gateway]
issuer = "spiffe://acme.org/stepgrant"
listen = "127.0.0.1:0"
policy = "policy"
[identity]
source = "workload_api"
[ledger]
path = "data/ledger.db"
[inputs]
recipients = ["auditor.pem"]
"""


@pytest.fixture
def installed(tmp_path):
    """A gateway's folder in which all is well."""
    shutil.copytree(SUPPORT_POLICY, tmp_path / "policy")
    (tmp_path / "auditor.pem").write_bytes(make_recipient()[1])
    (tmp_path / "gateway.toml").write_text(TOML)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ledger.db").touch(0o600)
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o022)
    return tmp_path


def checks(folder):
    return {check.name: check for check in inspect(folder / "gateway.toml", {}, lambda: START)}


def test_an_installation_in_order_is_ok_throughout_and_nothing_is_made(installed):
    before = sorted(installed.rglob("*"))

    found = checks(installed)

    assert {name: check.state for name, check in found.items()} == dict.fromkeys(
        ("gateway.toml", "policy", "ledger", "ledger's lock", "disk space", "recipient"), State.OK
    )
    assert sorted(installed.rglob("*")) == before


def spoil_toml(folder):
    (folder / "gateway.toml").write_text(TOML.replace("listen", "listens"))


def spoil_policy(folder):
    (folder / "policy" / "more.cedar").write_text("permit(principal, action, resource);\n")


def spoil_policy_folder(folder):
    (folder / "policy" / "more.txt").touch()


def spoil_ledger(folder):
    (folder / "data" / "ledger.db").chmod(0o644)


def spoil_ledger_folder(folder):
    shutil.rmtree(folder / "data")


def spoil_ledger_file(folder):
    (folder / "data" / "ledger.db").unlink()
    (folder / "data" / "ledger.db").mkdir()


def spoil_recipient(folder):
    (folder / "auditor.pem").write_text("no key")


def lose_recipient(folder):
    (folder / "auditor.pem").unlink()


def spoil_identity(folder):
    files = 'source = "files"\nchain = "c"\nkey = "k"\nbundle = "b"\ntrust_domain = "acme.org"'
    (folder / "gateway.toml").write_text(TOML.replace('source = "workload_api"', files))


@pytest.mark.parametrize(
    ("spoil", "name", "said", "typed", "status"),
    [
        (spoil_toml, "gateway.toml", "gateway.toml:3", "docs/policy.md", Exit.REFUSED),
        (spoil_policy, "policy", "more.cedar:1", "stepgrant policy check", Exit.REFUSED),
        (spoil_policy_folder, "policy", "more.txt", "stepgrant policy check", Exit.REFUSED),
        (spoil_ledger, "ledger", "mode 0644", "chmod 600", Exit.UNAVAILABLE),
        (spoil_ledger_folder, "ledger", "not there", "mkdir -p", Exit.UNAVAILABLE),
        (spoil_ledger_file, "ledger", "not a file", "ledger.path", Exit.UNAVAILABLE),
        (spoil_recipient, "recipient", "not a public key", "openssl pkey", Exit.REFUSED),
        (lose_recipient, "recipient", "No such file", "openssl pkey", Exit.REFUSED),
        (spoil_identity, "gateway's SVID", "", "[identity]", Exit.UNAVAILABLE),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_keeps_a_gateway_from_starting_has_failed_and_says_what_to_type(
    installed, spoil, name, said, typed, status
):
    spoil(installed)

    found = checks(installed)[name]

    assert (found.state, found.exit) == (State.FAILED, status)
    assert said in found.says
    assert typed in f"{found.todo} {found.command}"


def from_files(folder, svid, **changes):
    """The gateway's identity from PEM files, which are these."""
    names = {name: folder / f"{name}.pem" for name in ("chain", "key", "bundle")}
    names["key"].touch(0o600)
    for name, content in {"chain": svid.chain_pem, "key": svid.key_pem, "bundle": AUTHORITY.bundle().pem}.items():
        names[name].write_bytes(content)
    lines = ['source = "files"', 'trust_domain = "acme.org"', *(f'{name} = "{path}"' for name, path in names.items())]
    text = TOML.replace('source = "workload_api"', "\n".join(lines))
    (folder / "gateway.toml").write_text(text.replace("spiffe://acme.org/stepgrant", changes.get("issuer", ISSUER)))
    return checks(folder)


def test_an_identity_from_files_in_order_is_ok(installed):
    found = from_files(installed, AUTHORITY.issue("stepgrant", dns=["gateway.acme.org"]))

    assert {found[name].state for name in ("gateway's SVID", "gateway's DNS name", "bundle")} == {State.OK}


def test_a_gateway_without_a_dns_name_has_failed(installed):
    found = from_files(installed, AUTHORITY.issue("stepgrant"))["gateway's DNS name"]

    assert (found.state, "-dns gateway" in found.command) == (State.FAILED, True)


@pytest.mark.parametrize(
    ("issuer", "says", "typed"),
    [
        ("spiffe://acme.org/other", "but gateway.issuer is spiffe://acme.org/other", "spire-server entry create"),
        ("spiffe://partner.org/stepgrant", "the trust domains differ", ""),
    ],
)
def test_an_svid_of_somebody_else_than_the_issuer_has_failed(installed, issuer, says, typed):
    found = from_files(installed, AUTHORITY.issue("stepgrant", dns=["g"]), issuer=issuer)["gateway's SVID"]

    assert (found.state, found.exit, says in found.says) == (State.FAILED, Exit.REFUSED, True)
    assert typed in found.command


def test_a_key_that_others_can_read_has_failed_with_the_chmod(installed):
    """INV-13."""
    from_files(installed, AUTHORITY.issue("stepgrant", dns=["g"]))
    (installed / "key.pem").chmod(0o644)

    found = checks(installed)["gateway's SVID"]
    assert (found.state, found.command) == (State.FAILED, f"chmod 600 {installed / 'key.pem'}")


def test_a_socket_of_gateway_toml_is_looked_at_first(installed):
    (installed / "gateway.toml").write_text(
        TOML.replace('source = "workload_api"', 'source = "workload_api"\nsocket = "unix:/nowhere/api.sock"')
    )

    found = checks(installed)
    assert "identity.socket in" in found["Workload API"].todo
    assert "gateway's SVID" not in found


@pytest.mark.parametrize(
    ("place", "name"),
    [("gateway.toml", "gateway.toml"), ("policy/walls.cedar", "policy"), ("policy", "policy"), ("data", "ledger")],
)
def test_what_others_can_write_is_a_warning_with_the_chmod(installed, place, name):
    """INV-13: whoever can write these decides in the operator's place."""
    (installed / place).chmod(0o777 if (installed / place).is_dir() else 0o666)

    found = checks(installed)[name]

    assert found.state is State.WARNING
    assert found.command == f"chmod go-w {installed / place}"


def test_an_insecure_choice_is_a_warning(installed):
    """INV-13: insecure choices are said."""
    (installed / "gateway.toml").write_text(TOML.replace('path = "data/ledger.db"', "insecure_memory = true"))

    assert checks(installed)["gateway.toml"].state is State.WARNING


@pytest.mark.parametrize("ending", BESIDE)
def test_a_file_beside_the_ledger_that_others_can_read_is_a_warning(installed, ending):
    """INV-13: the log holds what the ledger holds."""
    beside = installed / "data" / f"ledger.db{ending}"
    beside.touch()
    beside.chmod(0o640)

    found = checks(installed)["ledger"]

    assert (found.state, found.command) == (State.WARNING, f"chmod 600 {beside}")


@contextmanager
def answering(status: HTTPStatus, body: bytes):
    """A page for machines at an address of its own, as a gateway has it."""
    found = {"/readyz": lambda: Page(status, "application/json", body)}
    listener = Listener(Address("127.0.0.1", 0), found)
    try:
        yield listener.port
    finally:
        listener.close()


@pytest.mark.parametrize(
    ("status", "body", "state", "said"),
    [
        (HTTPStatus.OK, b'{"ready": true, "troubles": {}}', State.OK, "can do its work"),
        (HTTPStatus.SERVICE_UNAVAILABLE, b'{"troubles": {"ledger": "no space"}}', State.FAILED, "ledger: no space"),
        (HTTPStatus.OK, b"<html>", State.WARNING, "does not say"),
        (HTTPStatus.OK, b"[]", State.WARNING, "does not say"),
    ],
)
def test_what_a_gateway_says_of_itself_is_passed_on(installed, status, body, state, said):
    with answering(status, body) as port:
        (installed / "gateway.toml").write_text(f'{TOML}[metrics]\naddress = "127.0.0.1:{port}"\n')
        found = checks(installed)["readiness"]

    assert (found.state, said in found.says) == (state, True)


def test_a_page_where_nobody_listens_is_a_warning(installed):
    with answering(HTTPStatus.OK, b"{}") as port:
        (installed / "gateway.toml").write_text(f'{TOML}[metrics]\naddress = "127.0.0.1:{port}"\n')
    found = checks(installed)["readiness"]

    assert (found.state, "stepgrant serve" in found.todo) == (State.WARNING, True)
