"""A gateway process that is stopped and goes on (SIGSTOP, SIGCONT), as on a machine that is paused: nothing comes alive again."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from datetime import timedelta
from typing import Any

import grpc
import pytest

from stepgrant.calls import Call
from stepgrant.client import Client
from stepgrant.errors import GrantRefusedError, RefusalCode, Revoked
from stepgrant.ids import ULID_RANDOM_BYTES, ulid
from stepgrant.step import Step
from stepgrant.v1 import verifier_pb2, verifier_pb2_grpc
from stepgrant.verify import Verifier
from stepgrant.verify.verifier import TlsHolder
from stepgrant_gateway.system import SystemClock, system_entropy
from tests.faults.serving import PATIENCE, site
from tests.kit.running import ISSUER
from tests.kit.servers import ORDERS

pytestmark = pytest.mark.slow

ARGUMENTS: dict[str, Any] = {"query": "jo@example.org"}
PARAMETERS = {"order_id": "ord_00000042", "customer": "jo@example.org"}
STALE = {RefusalCode.FEED_STALE, RefusalCode.EXPIRED}


async def held(client: Client, granted: asyncio.Future[Step]) -> None:
    """A step that nobody renews, until it ends."""
    async with client.task("Refund", PARAMETERS) as task:
        async with task.step("orders.search", ARGUMENTS, wanted_ttl=timedelta(seconds=6), renew=False) as step:
            granted.set_result(step)
            await asyncio.Event().wait()


class Shown:
    """The grant of a step, as whoever holds it can go on showing it."""

    def __init__(self, step: Step) -> None:
        identity = step.holder.identity
        self.grant = step.grant
        self.holder = TlsHolder(identity.spiffe_id, identity.leaf_sha256)

    async def to(self, resource: Verifier) -> RefusalCode | None:
        """None if the resource accepts it, else why not."""
        try:
            await resource.verify(self.grant.token, Call("orders.search", ARGUMENTS), self.holder)
        except GrantRefusedError as refused:
            return refused.refusal.code
        return None

    async def until(self, resource: Verifier, *answers: RefusalCode | None) -> None:
        """Returns once the resource answers one of these, to the grant being shown again and again."""
        async with asyncio.timeout(PATIENCE):
            while await self.to(resource) not in answers:  # noqa: ASYNC110 - what is awaited is time going by
                await asyncio.sleep(0.02)


async def test_ck_04_a_gateway_that_was_paused_serves_nothing_that_expired_meanwhile() -> None:
    """Its resource stops believing it; the grant runs out; a redemption that lies in its socket when it wakes is refused."""
    async with site() as place:
        life = await place.begin()
        assert life.ready
        connecting = Verifier.connect(
            gateway=f"localhost:{place.port}",
            gateway_id=ISSUER,
            audience=ORDERS,
            identity=await place.identity("resource/orders"),
        )
        async with connecting as resource, place.channel("resource/orders") as channel:
            await resource.ready()
            client = await place.client()
            granted: asyncio.Future[Step] = asyncio.get_running_loop().create_future()
            holding = asyncio.create_task(held(client, granted))
            shown = Shown(await granted)
            assert await shown.to(resource) is None

            life.process.send_signal(signal.SIGSTOP)
            await shown.until(resource, *STALE)
            while SystemClock().now() < shown.grant.expires_at:
                assert await shown.to(resource) in STALE
                await asyncio.sleep(0.02)
            redemption = ulid(SystemClock().now(), system_entropy(ULID_RANDOM_BYTES))
            asked = verifier_pb2.RedeemRequest(audience=ORDERS, grant_id=shown.grant.grant_id, redemption_id=redemption)
            stub = verifier_pb2_grpc.GrantVerifierStub(channel)
            redeeming = asyncio.ensure_future(stub.Redeem(asked, timeout=PATIENCE))
            life.process.send_signal(signal.SIGCONT)

            with suppress(grpc.aio.AioRpcError):  # The gateway may take the connection for lost: that is no yes either.
                answer = await redeeming
                assert not answer.accepted
                assert answer.code in {"expired", "revoked"}
            with pytest.raises(Revoked) as ended:
                await asyncio.wait_for(holding, PATIENCE)
            assert ended.value.cause in {"expired", "gateway_unavailable"}
            await resource.ready()
            async with client.task("Refund", PARAMETERS) as task:
                async with task.step("orders.search", ARGUMENTS) as fresh:
                    await Shown(fresh).until(resource, None)
            assert await shown.to(resource) in {RefusalCode.EXPIRED, RefusalCode.REVOKED}
