"""The verifier's connection to its gateway, over real mTLS on loopback."""

import asyncio
import contextlib

import grpc
import pytest

from stepgrant.errors import GatewayUnavailableError, MisuseError, ProtocolError, StepgrantError
from stepgrant.feed import Heartbeat, Snapshot
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.v1 import types_pb2, verifier_pb2, verifier_pb2_grpc
from stepgrant.verify.link import GatewayLink
from tests.kit.ca import FixedSource, TestAuthority
from tests.kit.clock import ManualClock
from tests.kit.enforcement import AUDIENCE, INSTANCE, ISSUER, some_ulid

AUDIENCES = frozenset({AUDIENCE})
GRANT, REDEMPTION = some_ulid("grant"), some_ulid("redemption")
BEAT = verifier_pb2.Heartbeat(instance_id=INSTANCE, at_unix_ms=1, included_sequence=1)


class Servicer(verifier_pb2_grpc.GrantVerifierServicer):
    """A gateway that the test scripts."""

    def __init__(self) -> None:
        self.redeemed: list[str] = []
        self.attested: list[verifier_pb2.AttestRequest] = []
        self.failures = 0
        self.hold: asyncio.Event | None = None
        self.asked = asyncio.Event()
        self.first = verifier_pb2.WatchEvent(
            epoch=some_ulid("e"), position=1, snapshot=verifier_pb2.Snapshot(heartbeat=BEAT)
        )
        self.end = asyncio.Event()

    async def Redeem(self, request, context):  # noqa: N802 - gRPC's name
        self.redeemed.append(request.redemption_id)
        self.asked.set()
        if self.hold is not None:
            await self.hold.wait()
        if len(self.redeemed) <= self.failures:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the ledger is away")
        return verifier_pb2.RedeemResponse(accepted=False, code="used_up", reason="all taken")

    async def Attest(self, request, context):  # noqa: N802 - gRPC's name
        self.attested.append(request)
        self.asked.set()
        if self.hold is not None:
            await self.hold.wait()
        return verifier_pb2.AttestResponse(late=True)

    async def Watch(self, request, context):  # noqa: N802 - gRPC's name
        assert list(request.audiences) == [AUDIENCE]
        yield self.first
        second = verifier_pb2.WatchEvent(epoch=some_ulid("e"), position=2, previous_position=1, heartbeat=BEAT)
        yield second
        await self.end.wait()


class Linked:
    def __init__(self, port: int, servicer: Servicer, domain: TestAuthority) -> None:
        self.servicer, self.source = servicer, FixedSource(domain.snapshot("resource/orders"))
        self.link = GatewayLink(f"localhost:{port}", parse_spiffe_id(ISSUER), self.source, ManualClock())

    @contextlib.asynccontextmanager
    async def watching(self):
        async with contextlib.aclosing(self.link.watch(AUDIENCES)) as events:
            first = await asyncio.wait_for(anext(events), 10)
            assert isinstance(first.item, Snapshot)
            yield events


@contextlib.asynccontextmanager
async def linked(path: str = "gateway"):
    domain, servicer = TestAuthority(), Servicer()
    svid = domain.issue(path, dns=["localhost"])
    credentials = grpc.ssl_server_credentials([(svid.key_pem, svid.chain_pem)], domain.bundle().pem, True)
    server = grpc.aio.server()
    verifier_pb2_grpc.add_GrantVerifierServicer_to_server(servicer, server)
    port = server.add_secure_port("localhost:0", credentials)
    await server.start()
    try:
        yield Linked(port, servicer, domain)
    finally:
        await server.stop(None)


async def test_events_come_from_the_gateway_that_proved_its_id():
    async with linked() as one, one.watching() as events:
        assert isinstance((await anext(events)).item, Heartbeat)
        one.servicer.end.set()
        with pytest.raises(StopAsyncIteration):
            await anext(events)


async def test_somebody_else_at_the_address_is_not_talked_to_inv_11():
    """INV-11: not the gateway that this verifier was configured with."""
    async with linked("agent/support") as one:
        with pytest.raises(GatewayUnavailableError, match="did not prove"):
            async with one.watching():
                pytest.fail("there is a feed")


async def test_without_a_subscription_there_is_no_connection_to_ask_over():
    async with linked() as one:
        async with one.watching():
            await one.link.redeem(AUDIENCE, GRANT, REDEMPTION)
        for attempt in (
            one.link.redeem(AUDIENCE, GRANT, REDEMPTION),
            one.link.attest(AUDIENCE, GRANT, completed=True, result_sha256=None),
            one.link.snapshot(AUDIENCES),
        ):
            with pytest.raises(GatewayUnavailableError):
                await attempt


async def test_a_lost_answer_is_asked_for_again_under_the_same_id():
    async with linked() as one, one.watching():
        one.servicer.failures = 1
        answer = await one.link.redeem(AUDIENCE, GRANT, REDEMPTION)
        assert (answer.accepted, answer.code, answer.reason) == (False, "used_up", "all taken")
        assert one.servicer.redeemed == [REDEMPTION, REDEMPTION]
        one.servicer.failures = 9
        with pytest.raises(StepgrantError):
            await one.link.redeem(AUDIENCE, GRANT, REDEMPTION)
        assert len(one.servicer.redeemed) == 4


async def test_id_08_a_redemption_on_its_way_while_the_connection_is_replaced_is_asked_for_over_the_next_one():
    """The caller hears an answer, and not that it was cancelled: nobody has cancelled it."""
    async with linked() as one, one.watching() as before:
        one.servicer.hold = asyncio.Event()
        redeeming = asyncio.create_task(one.link.redeem(AUDIENCE, GRANT, REDEMPTION))
        await asyncio.wait_for(one.servicer.asked.wait(), 10)
        await before.aclose()
        one.servicer.hold = None
        async with one.watching():
            answer = await asyncio.wait_for(redeeming, 10)
    assert answer.code == "used_up"
    assert one.servicer.redeemed == [REDEMPTION, REDEMPTION]


async def test_id_08_what_the_old_subscription_still_says_does_not_take_the_connection_of_the_new_one_away():
    async with linked() as one, one.watching() as before, one.watching():
        assert isinstance((await anext(before)).item, Heartbeat)
        await before.aclose()
        await one.link.attest(AUDIENCE, GRANT, completed=True, result_sha256=None)
    assert len(one.servicer.attested) == 1


async def test_id_08_an_outcome_on_its_way_while_the_connection_is_replaced_is_told_over_the_next_one():
    async with linked() as one, one.watching() as before:
        one.servicer.hold = asyncio.Event()
        telling = asyncio.create_task(one.link.attest(AUDIENCE, GRANT, completed=True, result_sha256=None))
        await asyncio.wait_for(one.servicer.asked.wait(), 10)
        await before.aclose()
        one.servicer.hold = None
        async with one.watching():
            await asyncio.wait_for(telling, 10)
    assert len(one.servicer.attested) == 2


async def test_who_waits_for_a_redemption_can_be_cancelled():
    async with linked() as one, one.watching():
        one.servicer.hold = asyncio.Event()
        redeeming = asyncio.create_task(one.link.redeem(AUDIENCE, GRANT, REDEMPTION))
        await asyncio.wait_for(one.servicer.asked.wait(), 10)
        redeeming.cancel()
        await asyncio.wait({redeeming})
    assert redeeming.cancelled()


async def test_outcomes_are_told():
    async with linked() as one, one.watching():
        await one.link.attest(AUDIENCE, GRANT, completed=True, result_sha256=bytes(32))
        await one.link.attest(AUDIENCE, GRANT, completed=False, result_sha256=None)
        outcomes = [(request.outcome, request.result_sha256) for request in one.servicer.attested]
        assert outcomes == [(types_pb2.OUTCOME_COMPLETED, bytes(32)), (types_pb2.OUTCOME_FAILED, b"")]


async def test_the_state_of_now_can_be_had_beside_the_subscription():
    async with linked() as one, one.watching():
        assert (await one.link.snapshot(AUDIENCES)).heartbeat.instance_id == INSTANCE
        one.servicer.first = verifier_pb2.WatchEvent(epoch=some_ulid("e"), position=1, heartbeat=BEAT)
        with pytest.raises(ProtocolError):
            await one.link.snapshot(AUDIENCES)


async def test_the_authority_is_the_gateway_under_the_bundles_of_now():
    async with linked() as one:
        assert str(one.link.authority().issuer) == ISSUER
        assert one.link.authority().bundles is one.source.current().bundles


@pytest.mark.parametrize("address", ["", "localhost", ":1", "localhost:", "localhost:x", "https://localhost"])
def test_an_address_that_is_none_is_misuse(address):
    with pytest.raises(MisuseError):
        GatewayLink(address, parse_spiffe_id(ISSUER), FixedSource(None), ManualClock())
