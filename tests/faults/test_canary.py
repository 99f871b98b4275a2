"""AU-08: secrets with a recognisable mark go through every RPC and every way to fail; then each output is searched for them."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from opentelemetry import trace
from typer.testing import CliRunner

from stepgrant import outgoing
from stepgrant.errors import Denied, StepgrantError
from stepgrant.outgoing.http import HttpAuth
from stepgrant.v1 import (
    dispatch_pb2,
    dispatch_pb2_grpc,
    operator_pb2,
    operator_pb2_grpc,
    types_pb2,
    verifier_pb2,
    verifier_pb2_grpc,
)
from stepgrant_gateway import wiring
from stepgrant_gateway.cli.program import program
from stepgrant_gateway.rpc.quotas import ERRANDS
from stepgrant_gateway.tracing import Tracing
from tests.faults.outputs import Outputs, gathered_outputs
from tests.integration.test_health_tells_the_truth import METRICS, fetched
from tests.integration.test_resources_enforce import bare_channel
from tests.kit.agent import Agent, declaring
from tests.kit.oidc import AUDIENCE, Issuer
from tests.kit.running import ISSUER, SUPPORT_POLICY, Running, running_gateway
from tests.kit.servers import HTTP_CALLS, MAIL, ORDERS, Order, call, mail_server, orders_server

CANARY = "cnry5ecretQ7x"
USERS = Issuer()
NUMBER = 7351926480351
CUSTOMER = f"{CANARY.lower()}@x.org"
PARAMETERS = {"order_id": "ord_00000042", "customer": CUSTOMER}
LETTER = {"to": [CUSTOMER], "subject": f"plain {CANARY}", "body": f"sensitive {CANARY}"}
ULID = "01KAJ7RM00000000000000STEP"
WAIT = 10


@dataclass
class Site:
    """A running gateway, the two resources, and what comes out of all of it."""

    running: Running
    outputs: Outputs
    orders: str
    mail: str
    asked: set[str]

    async def failing(self, what: str, work: Any) -> None:
        """Work that must fail; what its caller is told is an output."""
        with pytest.raises((grpc.aio.AioRpcError, StepgrantError)) as caught:
            await work
        self.outputs.add(f"what the caller hears of {what}", repr(caught.value) + str(caught.value))

    def stub(self, kind: Any, channel: grpc.aio.Channel) -> Any:
        """A stub that notes which of its methods were called."""
        asked, inner = self.asked, kind(channel)

        class Noted:
            def __getattr__(self, name: str) -> Any:
                asked.add(name)
                return getattr(inner, name)

        return Noted()


@asynccontextmanager
async def site(folder: Path, outputs: Outputs) -> AsyncIterator[Site]:
    policy = folder / "policy"
    shutil.copytree(SUPPORT_POLICY, policy)
    tools = policy / "tools" / "orders.json"
    tools.write_text(tools.read_text().replace('"maximum": 100', f'"maximum": {NUMBER}'))
    (policy / "erring.cedar").write_text(
        '@id("errs") forbid (principal, action == Action::"orders.search", resource)\n'
        "when { context.args.limit > 100 && context.args.limit * 9223372036854775807 > 0 };\n"
    )
    auditor = X25519PrivateKey.generate().public_key()
    (folder / "auditor.pem").write_bytes(auditor.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (folder / "jwks.json").write_bytes(USERS.jwks)
    users = f"""
[[identity.subjects]]
issuer = "{USERS.url}"
audience = "{AUDIENCE}"
jwks = "{folder}/jwks.json"
"""
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(
            running_gateway(
                policy, ledger=folder / "ledger.db", settings=METRICS + users,
                inputs=f'recipients = ["{folder}/auditor.pem"]',
            )
        )  # fmt: skip
        orders, _ = await stack.enter_async_context(orders_server(running))
        mail = await stack.enter_async_context(mail_server(running))
        yield Site(running, outputs, orders, mail, set())


async def users_work(site: Site) -> None:
    """Tasks on behalf of a user: the token, and what it says beside who the user is, are for nobody else."""
    client, now = await site.running.client(), datetime.now(UTC)
    claims = {"email": CUSTOMER, "nonce": CANARY, "groups": [CANARY]}
    token = USERS.token(now, **claims)
    site.outputs.hide("a subject token", token)
    site.outputs.hide("a subject token's signature", token.rpartition(".")[2])
    async with client.task("Refund", PARAMETERS, subject_token=token) as task:
        async with task.step("orders.get", {"order_id": "ord_00000042"}) as step:
            site.outputs.hide("a grant of a user's task", step.grant.token)
            site.outputs.add("repr of a user's task", repr((step, task, step.grant)))
    for what, bad in (
        ("a token for another audience", USERS.token(now, **{**claims, "aud": CANARY})),
        ("a token by another key", Issuer(USERS.url, "ES256").token(now, **claims)),
        ("a token of an unknown key", USERS.token(now, header={"kid": CANARY}, **claims)),
        ("a token that is none", f"{CANARY}.{CANARY}.{CANARY}"),
    ):
        site.outputs.hide(what, bad)
        await site.failing(what, client.task("Refund", PARAMETERS, subject_token=bad).__aenter__())


async def agents_work(site: Site) -> None:
    """Tasks and steps that are granted, denied, refused, failed and renewed, by the real SDK."""
    client = await site.running.client()
    wrong = {**PARAMETERS, "order_id": CANARY}
    await site.failing("a task with a wrong parameter", client.task("Refund", wrong, purpose=CANARY).__aenter__())
    async with client.task("Refund", PARAMETERS, purpose=f"purpose {CANARY}") as task:
        async with task.step("mail.send", LETTER, purpose=f"purpose {CANARY}") as step:
            site.outputs.hide("a grant", step.grant.token)
            site.outputs.hide("a grant's signature", step.grant.token.rpartition(".")[2])
            site.outputs.add("repr of a step", repr((step, task, step.grant)))
            await step.renew()
        with suppress(ValueError):
            async with task.step("orders.search", {"query": CANARY}) as step:
                step.result({"found": CANARY})
                raise ValueError(CANARY)
        for what, tool, arguments in (
            ("a denied step", "mail.send", {**LETTER, "to": [f"{CANARY}@elsewhere.org"]}),
            ("an argument of the wrong type", "orders.refund", {"order_id": "ord_00000042", "amount": CANARY}),
            ("an address that is none", "mail.send", {**LETTER, "to": [CANARY]}),
            ("an argument that is too long", "orders.search", {"query": CANARY * 100}),
            ("a policy that errs", "orders.search", {"query": CANARY, "limit": NUMBER}),
        ):
            with pytest.raises(Denied) as denied:
                async with task.step(tool, arguments, purpose=CANARY):
                    pytest.fail(f"{what} was granted")
            site.outputs.add(f"what the caller hears of {what}", repr(denied.value.denial) + str(denied.value))


FRAMES: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("broken JSON of a declare", {}, {"arguments_json": f'{{"order_id": "{CANARY}'}),
    ("a name twice", {}, {"arguments_json": f'{{"order_id": "{CANARY}", "order_id": "{CANARY}"}}'}),
    ("a number that is none", {}, {"arguments_json": f'{{"order_id": {NUMBER}1e999}}'}),
    ("an id that is none", {}, {"step_id": CANARY}),
    ("broken JSON of an open", {"parameters_json": f'["{CANARY}"'}, {}),
    ("a resume token that nobody gave", {"resume_token": CANARY.encode().ljust(32, b"x")}, {}),
    ("an instance key that is none", {"instance_key": CANARY.encode()}, {}),
    ("a signature that is not right", {"signature": CANARY.encode().ljust(64, b"x")}, {}),
)
"""What no SDK sends: what is wrong, in the Open, or in a Declare after a good one."""


async def agents_frames(site: Site) -> None:
    channel = await site.running.channel("agent/support")
    certificate = site.running.identity("agent/support").current().leaf_sha256
    site.asked.add("PerformTask")
    for what, opening, declared in FRAMES:
        agent = Agent(channel)
        good = {"parameters_json": json.dumps(PARAMETERS, sort_keys=True), "purpose": CANARY}
        with suppress(AssertionError, grpc.aio.AioRpcError):
            opened = await agent.open(certificate=certificate, gateway=ISSUER, **good | opening)
            if opened.HasField("opened"):
                site.outputs.hide("a resume token", opened.opened.resume_token)
                await agent.send(declare=declaring(**{"step_id": ULID, "purpose": CANARY} | declared))
                opened = await agent.read()
            site.outputs.add(f"what the caller hears of {what}", opened)
        agent.call.cancel()
        with suppress(asyncio.CancelledError):
            site.outputs.add(f"what the caller hears of {what}", await agent.call.details())


async def dispatchers_requests(site: Site) -> None:
    """Assignments that are refused, and the end of one that nobody made."""
    stub = site.stub(dispatch_pb2_grpc.DispatcherStub, await site.running.channel("agent/other"))
    wrong = {"ticket": CANARY.encode().ljust(32, b"x"), "workload": f"spiffe://dev.stepgrant.test/{CANARY}"}
    for parameters in (json.dumps(PARAMETERS, sort_keys=True), f'["{CANARY}"'):
        request = dispatch_pb2.AssignRequest(**wrong, task_type="Refund", parameters_json=parameters, purpose=CANARY)
        with suppress(grpc.aio.AioRpcError):
            site.outputs.add("what a dispatcher hears", await stub.Assign(request))
    await site.failing("a withdrawal of nothing", stub.Withdraw(dispatch_pb2.WithdrawRequest(assignment_id=CANARY)))


async def resources_work(site: Site) -> None:
    """Calls that are refused for each reason, redemptions and attestations of nothing, proofs of possession."""
    client = await site.running.client()
    auth = HttpAuth(MAIL, site.mail, HTTP_CALLS, insecure_http=True)
    async with (
        client.task("Refund", PARAMETERS) as task,
        bare_channel(site.running, "agent/support", site.orders) as own,
        httpx.AsyncClient(base_url=site.mail, auth=auth) as web,
    ):
        async with task.step("orders.get", {"order_id": "ord_00000042"}) as step:
            grant = step.grant.token
            site.outputs.hide("a grant at a resource", grant)
            for what, request, shown in (
                ("another call at a resource", Order(order_id=CANARY), grant),
                ("a grant that is none at a resource", Order(order_id=CANARY), f"{CANARY}.{CANARY}.{CANARY}"),
            ):
                await site.failing(what, call(own, request=request, grant=shown))
            assert await call(own, grant=grant) == "orders.get ord_00000042"
        async with task.step("mail.read", {"mailbox": "support"}):
            assert (await web.get("/mailboxes/support")).status_code == 200
            refused = await web.get(f"/mailboxes/{CANARY}", headers={"x-secret": CANARY})
            site.outputs.add("what the caller hears of another call by HTTP", refused.text)
    stub = site.stub(verifier_pb2_grpc.GrantVerifierStub, await site.running.channel("resource/orders"))
    watch = stub.Watch(verifier_pb2.WatchRequest(audiences=[ORDERS]))
    site.outputs.add("the feed", await asyncio.wait_for(watch.read(), WAIT))
    await site.failing(
        "Redeem", stub.Redeem(verifier_pb2.RedeemRequest(audience=ORDERS, grant_id=CANARY, redemption_id=CANARY))
    )
    await site.failing(
        "Attest", stub.Attest(verifier_pb2.AttestRequest(audience=ORDERS, grant_id=ULID, result_sha256=CANARY.encode()))
    )
    bearer = (("authorization", f"Bearer {CANARY}"),)
    await site.failing("a bearer token", stub.Redeem(verifier_pb2.RedeemRequest(audience=ORDERS), metadata=bearer))


async def operators_work(site: Site) -> None:
    channel = await site.running.channel("operator/jo")
    stub = site.stub(operator_pb2_grpc.OperatorStub, channel)
    client = await site.running.client()
    async with client.task("Refund", PARAMETERS, purpose=CANARY) as task:
        async with task.step("mail.send", LETTER, purpose=CANARY):
            listed = await stub.ListTasks(operator_pb2.ListTasksRequest())
            site.outputs.add("ListTasks", listed)
            for one in listed.tasks:
                site.outputs.add("ListSteps", await stub.ListSteps(operator_pb2.ListStepsRequest(task_id=one.task_id)))
            site.outputs.add("stepgrant tasks", await stepgrant(site, "tasks", "--json"))
    await site.failing("ListSteps", stub.ListSteps(operator_pb2.ListStepsRequest(task_id=CANARY)))
    selector = types_pb2.Selector(tool="orders.purge")
    locked = await stub.SetLock(operator_pb2.SetLockRequest(selector=selector, reason="incident"))
    site.outputs.add("ListLocks", await stub.ListLocks(operator_pb2.ListLocksRequest()))
    await stub.LiftLock(operator_pb2.LiftLockRequest(lock_id=locked.lock.lock_id, reason="over"))
    site.outputs.add("ReloadPolicy", await stub.ReloadPolicy(operator_pb2.ReloadPolicyRequest()))
    async for record in stub.TailLedger(operator_pb2.TailLedgerRequest()):
        site.outputs.add("TailLedger", record.body.decode())


async def inner_failures(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw, with an error that quotes what it was given: in a use case, in the store, at a resource."""
    application = site.running.gateway.application

    def fail(*_: object, **__: object) -> None:
        raise KeyError(CANARY)

    client = await site.running.client()
    with monkeypatch.context() as broken:
        broken.setattr(type(application.state), "book", fail)
        await site.failing("an error inside", client.task("Refund", PARAMETERS).__aenter__())
    with monkeypatch.context() as broken:
        broken.setattr(application.recorder._writer._store, "append", fail)
        await site.failing("a store that fails", client.task("Refund", PARAMETERS).__aenter__())


async def stepgrant(site: Site, *arguments: str) -> str:
    """What a command prints, of a program that runs as an operator."""
    environment = {
        "SPIFFE_ENDPOINT_SOCKET": site.running.api.socket_for("operator/jo"),
        "STEPGRANT_GATEWAY": f"localhost:{site.running.gateway.port}",
        "STEPGRANT_GATEWAY_ID": ISSUER,
    }
    result = await asyncio.to_thread(CliRunner().invoke, program, list(arguments), env={**os.environ, **environment})
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
async def test_au_08_no_secret_is_in_any_output(tmp_path, monkeypatch, capfd):
    """AU-08: logs, terminal, metrics, spans, ledger, what is sealed beside it, commands, and what callers are told."""
    proofs: list[str] = []
    make_proof = outgoing.http.make_proof
    monkeypatch.setattr(outgoing.http, "make_proof", lambda *a, **k: proofs.append(make_proof(*a, **k)) or proofs[-1])
    with gathered_outputs() as outputs:
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: outputs.provider)
        monkeypatch.setattr(wiring, "begin_tracing", lambda _, __, then: Tracing(outputs.provider, then))
        outputs.hide("an argument, a parameter or a purpose", CANARY)
        outputs.hide("a parameter", CUSTOMER)
        outputs.hide("a number of an argument", str(NUMBER))
        async with site(tmp_path, outputs) as there:
            await agents_work(there)
            await users_work(there)
            await dispatchers_requests(there)
            await agents_frames(there)
            await resources_work(there)
            await operators_work(there)
            await inner_failures(there, monkeypatch)
            outputs.hide("a proof of possession", proofs[0])
            for path in ("gateway", "agent/support", "resource/orders"):
                key = there.running.identity(path).current().private_key_pem.decode().splitlines()[1]
                outputs.hide(f"the key of {path}", key)
            for page in ("/metrics", "/readyz"):
                outputs.add(page, (await asyncio.to_thread(fetched, there.running, page))[1])
            outputs.add("stepgrant doctor", await stepgrant(there, "doctor", "--json"))
        ledger = str(tmp_path / "ledger.db")
        for command in (("show", ledger), ("show", ledger, "--json"), ("verify", ledger, "--json")):
            outputs.add(f"stepgrant audit {command[0]}", await stepgrant(there, "audit", *command))
        for file in tmp_path.glob("ledger.db*"):
            outputs.add("the ledger's files", file.read_bytes().decode("latin-1"))
    outputs.add("the terminal", "".join(capfd.readouterr()))

    assert outputs.leaks() == []
    assert there.asked == {method.rpartition("/")[2] for method in ERRANDS}
    assert [name for name, texts in outputs.texts.items() if name != "the terminal" and not "".join(texts)] == []
    log = "".join(outputs.texts["JSON log"])
    assert [
        event for event in ("decided", "call_failed", "ledger_append_failed") if f'"event": "{event}"' not in log
    ] == []


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_secret_is_found_in_each_of_its_forms():
    """The search itself: as it is, in hexadecimal, and in base64 wherever it begins."""
    with gathered_outputs() as outputs:
        outputs.hide("it", CANARY)
    for before in range(4):
        for text in (f"a {CANARY} b", CANARY.encode().hex(), _base64(b"x" * before + CANARY.encode() + b"yz")):
            outputs.texts = {"somewhere": [text]}
            assert outputs.leaks() == ["it is in: somewhere"], (before, text)
