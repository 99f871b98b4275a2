"""A user's token, from a real issuer over HTTPS, through the SDK and a real gateway, to what the resource reads."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stepgrant.errors import DenialCode, Denied, Revoked
from stepgrant.grant import from_payload
from stepgrant.selector import Selector
from stepgrant.subject import SubjectId
from stepgrant_gateway.core.events import EventType
from tests.integration.test_tokens_name_agents import recorded
from tests.kit.foreign import ForeignSigner
from tests.kit.loop import settled
from tests.kit.oidc import AUDIENCE, Issuer, authority_file, logout_claims, serving
from tests.kit.running import running_gateway
from tests.kit.subjects import subject_policy
from tests.kit.tokens import payload_of

REFUND = {"order_id": "ord_00000042", "customer": "jo@x.org"}
ORDER = {"order_id": "ord_00000042"}


def settings(issuer: Issuer, ca: Path) -> str:
    return f"""
[[identity.subjects]]
issuer = "{issuer.url}"
audience = "{AUDIENCE}"
ca = "{ca}"
"""


async def test_a_task_runs_on_behalf_of_the_user_that_the_token_is_about(tmp_path: Path) -> None:
    ca, policy = authority_file(tmp_path), subject_policy(tmp_path / "policy")
    with serving(Issuer()) as issuer:
        async with running_gateway(policy, settings=settings(issuer, ca)) as running:
            client = await running.client()
            now = datetime.now(UTC)
            token = issuer.token(now, department="support")
            async with client.task("Refund", REFUND, subject_token=token) as task:
                async with task.step("orders.get", ORDER) as step:
                    jo = SubjectId(issuer.url, "u-17")
                    assert from_payload(payload_of(step.grant.token)).on_behalf_of == jo
                    assert task.expires_at.timestamp() == int(now.timestamp()) + 600
                with pytest.raises(Revoked) as revoked:
                    async with task.step("orders.search", {"query": "x"}):
                        await running.gateway.application.operating.set_lock(Selector(subject=str(jo)), "INC-7", "jo")
                        await asyncio.Event().wait()
                assert revoked.value.cause == "locked"
            for bad, code in (
                (token, DenialCode.LOCKED),
                (issuer.token(now, "u-18", department="sales"), DenialCode.FORBIDDEN),
                (issuer.token(now, "u-18", aud="another"), DenialCode.SUBJECT_INVALID),
                (Issuer(issuer.url, "ES256").token(now, "u-18"), DenialCode.SUBJECT_INVALID),
            ):
                with pytest.raises(Denied) as denied:
                    async with client.task("Refund", REFUND, subject_token=bad):
                        raise AssertionError("opened")
                assert denied.value.denial.code is code
            assert issuer.asked == ["/.well-known/openid-configuration", "/jwks"]


async def test_tk_15_a_new_key_of_the_issuer_is_looked_for_once_and_the_task_opens(tmp_path: Path) -> None:
    ca, policy = authority_file(tmp_path), subject_policy(tmp_path / "policy")
    with serving(Issuer()) as issuer:
        async with running_gateway(policy, settings=settings(issuer, ca)) as running:
            client = await running.client()
            issuer.signer = ForeignSigner.of("ES256", "two")
            issuer.publish()
            async with client.task("Refund", REFUND, subject_token=issuer.token(datetime.now(UTC))):
                assert issuer.asked.count("/jwks") == 2
            with pytest.raises(Denied) as denied:
                made_up = issuer.token(datetime.now(UTC), header={"kid": "three"})
                async with client.task("Refund", REFUND, subject_token=made_up):
                    raise AssertionError("opened")
            assert denied.value.denial.code is DenialCode.SUBJECT_INVALID
            assert issuer.asked.count("/jwks") == 2


async def test_the_issuer_logs_the_user_out_and_the_task_ends_at_once(tmp_path: Path) -> None:
    ca, policy = authority_file(tmp_path), subject_policy(tmp_path / "policy")
    with serving(Issuer()) as issuer:
        logout = '[logout]\naddress = "127.0.0.1:0"\n'
        async with running_gateway(policy, settings=settings(issuer, ca) + logout) as running:
            client = await running.client()
            now = datetime.now(UTC)
            token = issuer.token(now, sid="s-1")

            def log_out(logout_token: str) -> int:
                connection = http.client.HTTPConnection("127.0.0.1", running.gateway.logout_port or 0, timeout=10)
                form = {"Content-Type": "application/x-www-form-urlencoded"}
                connection.request("POST", "/backchannel-logout", f"logout_token={logout_token}", form)
                with contextlib.closing(connection):
                    return connection.getresponse().status

            async with client.task("Refund", REFUND, subject_token=token) as task:
                with pytest.raises(Revoked) as revoked:
                    async with task.step("orders.get", ORDER):
                        assert await asyncio.to_thread(log_out, token) == 400
                        good = issuer.signer.sign(logout_claims(issuer, now, sid="s-1"), typ="logout+jwt")
                        assert await asyncio.to_thread(log_out, good) == 200
                        await asyncio.Event().wait()
                assert revoked.value.cause == "logged_out"
            with pytest.raises(Denied) as denied:
                async with client.task("Refund", REFUND, subject_token=token):
                    raise AssertionError("opened")
            assert denied.value.denial.code is DenialCode.SUBJECT_INVALID


async def test_a_user_s_task_moves_to_the_next_svid_and_is_that_user_s_still(tmp_path: Path) -> None:
    ca, policy = authority_file(tmp_path), subject_policy(tmp_path / "policy")
    with serving(Issuer()) as issuer:
        async with running_gateway(policy, settings=settings(issuer, ca)) as running:
            client = await running.client()
            async with client.task("Refund", REFUND, subject_token=issuer.token(datetime.now(UTC))) as task:
                before = task.holder.identity
                running.api.reissue("agent/support")
                await recorded(running, EventType.TASK_TAKEN_OVER, 1)
                async with task.step("orders.get", ORDER) as step:
                    assert step.holder.identity.leaf_sha256 != before.leaf_sha256
                    claims = from_payload(payload_of(step.grant.token))
                    assert claims.on_behalf_of == SubjectId(issuer.url, "u-17")
                    assert claims.task_id == task.id


async def test_inv_04_a_task_goes_on_for_as_long_as_the_next_token_of_its_user_lasts(tmp_path: Path) -> None:
    ca, policy = authority_file(tmp_path), subject_policy(tmp_path / "policy")
    with serving(Issuer()) as issuer:
        async with running_gateway(policy, settings=settings(issuer, ca)) as running:
            client, now = await running.client(), datetime.now(UTC)
            lives = iter((timedelta(minutes=2), timedelta(minutes=4)))

            def newest() -> str:
                return issuer.signer.sign(issuer.claims(now, lives=next(lives)))

            async with client.task("Refund", REFUND, subject_token=newest) as task:
                assert task.expires_at.timestamp() == int(now.timestamp()) + 120
                async with task.step("orders.get", ORDER) as step:
                    running.api.reissue("agent/support")
                    await recorded(running, EventType.TASK_TAKEN_OVER, 1)
                    await settled(lambda: task.expires_at.timestamp() == int(now.timestamp()) + 240)
                    assert step.live


async def test_inv_07_a_key_that_the_issuer_takes_back_ends_the_tasks_of_whom_it_proved_and_no_others(
    tmp_path: Path,
) -> None:
    ca, policy = authority_file(tmp_path), subject_policy(tmp_path / "policy")
    with serving(Issuer()) as issuer:
        first, second = issuer.signer, ForeignSigner.of("ES256", "two")
        issuer.publish(second)
        async with running_gateway(policy, settings=settings(issuer, ca)) as running:
            client = await running.client()
            now = datetime.now(UTC)
            by_second = second.sign(issuer.claims(now, "u-18"))
            async with (
                client.task("Refund", REFUND, subject_token=first.sign(issuer.claims(now))) as lost,
                client.task("Refund", REFUND, subject_token=by_second) as kept,
                kept.step("orders.get", ORDER),
            ):
                with pytest.raises(Revoked) as revoked:
                    async with lost.step("orders.get", ORDER):
                        issuer.signer = ForeignSigner.of("ES256", "three")
                        issuer.publish(second)
                        # A token by a key that is new has the keys looked for, and opens.
                        async with client.task("Refund", REFUND, subject_token=issuer.token(now)):
                            await asyncio.wait_for(asyncio.Event().wait(), 10)
                assert revoked.value.cause == "subject_lost"
                async with kept.step("orders.search", {"query": "x"}):
                    pass
