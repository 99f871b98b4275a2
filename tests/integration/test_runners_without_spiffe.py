"""A CI runner with nothing but an OIDC token: the real SDK, a real issuer over HTTPS, a real gateway."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

import stepgrant
from stepgrant.errors import DenialCode, Denied, Revoked, StepgrantError
from stepgrant.grant import from_payload
from stepgrant_gateway.cli.checks import State
from stepgrant_gateway.cli.surroundings import examine
from tests.kit.foreign import ForeignSigner
from tests.kit.oidc import AUDIENCE, Issuer, authority_file, serving
from tests.kit.running import ISSUER, SUPPORT_POLICY, Running, running_gateway
from tests.kit.tokens import payload_of

TRIAGE = {"mailbox": "support"}
RULES = """
@id("ci-triages")
permit (
  principal is Task::Triage in Workload::"spiffe://dev.stepgrant.test/agent/ci/acme",
  action == Action::"task.open",
  resource
) when { context.peer.method == "oidc" };
"""


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with serving(Issuer()) as one:
        yield one


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    folder = tmp_path / "policy"
    shutil.copytree(SUPPORT_POLICY, folder)
    (folder / "ci.cedar").write_text(RULES)
    return folder


def settings(issuer: Issuer, ca: Path) -> str:
    return f"""
[[identity.workloads]]
issuer = "{issuer.url}"
audience = "{AUDIENCE}"
ca = "{ca}"
under = "spiffe://dev.stepgrant.test/agent/ci"
id = "spiffe://dev.stepgrant.test/agent/ci/{{repository_owner}}/{{repository_id}}"
where = {{repository_owner = "acme", ref = "refs/heads/*"}}
"""


def runner(running: Running, folder: Path, token: str, monkeypatch: pytest.MonkeyPatch) -> stepgrant.Client:
    """The client of a program that has these two files, and no Workload API."""
    (folder / "token").write_text(token + "\n")
    pem = (x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in running.domain.bundle.authorities)
    (folder / "bundle.pem").write_bytes(b"".join(pem))
    for name, value in {
        "STEPGRANT_GATEWAY": f"localhost:{running.gateway.bearer_port}",
        "STEPGRANT_GATEWAY_ID": ISSUER,
        "STEPGRANT_CREDENTIAL": "oidc",
        "STEPGRANT_TOKEN_FILE": str(folder / "token"),
        "STEPGRANT_BUNDLE_FILE": str(folder / "bundle.pem"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SPIFFE_ENDPOINT_SOCKET", raising=False)
    return stepgrant.connect()


async def test_a_runner_is_the_workload_that_its_token_stands_for_and_policy_knows_how_it_was_proven(
    issuer: Issuer, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = {"repository_owner": "acme", "repository_id": "42", "ref": "refs/heads/main"}
    ca = authority_file(tmp_path)
    async with running_gateway(policy, settings=settings(issuer, ca), jwt_ttl=timedelta(minutes=5)) as running:
        now = datetime.now(UTC)
        token = issuer.token(now, "repo:acme/shop", **claims)
        async with runner(running, tmp_path, token, monkeypatch) as client:
            async with client.task("Triage", TRIAGE) as task:
                async with task.step("mail.read", TRIAGE) as step:
                    grant = from_payload(payload_of(step.grant.token))
                    assert grant.subject == "spiffe://dev.stepgrant.test/agent/ci/acme/42"
                    assert grant.binding.value == "key"
                assert task.expires_at.timestamp() == int(now.timestamp()) + 600
            looked = await asyncio.to_thread(lambda: list(examine(os.environ, lambda: datetime.now(UTC))))
            assert [check.state for check in looked if check.name in {"OIDC token", "health", "accepted"}] == [
                State.OK
            ] * 3
            assert any("the gateway takes the token" in check.says for check in looked)
            # What only a certificate can hold is not for who shows a token.
            with pytest.raises(Denied) as denied:
                async with client.task("Refund", {"order_id": "ord_00000042", "customer": "jo@x.org"}):
                    raise AssertionError("opened")
            assert denied.value.denial.code is DenialCode.NO_PERMIT


@pytest.mark.parametrize(
    "change",
    [
        {"repository_owner": "acme/../../agent", "repository_id": "42"},
        {"repository_id": "../support"},
        {"repository_id": "a/b"},
        {"repository_id": "*"},
        {"repository_id": 42},
        {"repository_owner": "evil"},
        {"ref": "refs/tags/v1"},
        {"aud": "another"},
        {"sub": "spiffe://dev.stepgrant.test/agent/support"},
    ],
)
async def test_id_04_no_claim_makes_another_workload_of_a_runner(
    issuer: Issuer, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    claims = {"repository_owner": "acme", "repository_id": "42", "ref": "refs/heads/main", **change}
    async with running_gateway(
        policy, settings=settings(issuer, authority_file(tmp_path)), jwt_ttl=timedelta(minutes=5)
    ) as running:
        token = issuer.token(datetime.now(UTC), **{"sub": "runner", **claims})
        async with runner(running, tmp_path, token, monkeypatch) as client:
            with pytest.raises(StepgrantError) as error:
                async with client.task("Triage", TRIAGE):
                    raise AssertionError("opened")
        assert "UNAUTHENTICATED" in str(error.value)


async def test_inv_07_a_key_that_the_issuer_takes_back_ends_the_streams_of_whom_it_proved(
    issuer: Issuer, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = {"repository_owner": "acme", "repository_id": "42", "ref": "refs/heads/main"}
    async with running_gateway(
        policy, settings=settings(issuer, authority_file(tmp_path)), jwt_ttl=timedelta(minutes=5)
    ) as running:
        now = datetime.now(UTC)
        async with runner(running, tmp_path, issuer.token(now, "runner", **claims), monkeypatch) as client:
            async with client.task("Triage", TRIAGE) as task:
                with pytest.raises(Revoked) as revoked:
                    async with task.step("mail.read", TRIAGE):
                        issuer.signer = ForeignSigner.of("ES256", "two")
                        issuer.publish()
                        # Whoever comes with a key that is new is turned away, and has it looked for.
                        other = tmp_path / "other"
                        other.mkdir()
                        async with runner(running, other, issuer.token(now, "r", **claims), monkeypatch) as next_one:
                            with contextlib.suppress(StepgrantError):
                                async with next_one.task("Triage", TRIAGE):
                                    raise AssertionError("opened")
                        await asyncio.wait_for(asyncio.Event().wait(), 10)
                assert revoked.value.cause == "identity_lost"
