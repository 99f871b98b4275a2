"""The resource's verifier: redemption, keys that are faster than their announcement, attestation."""

import asyncio
from datetime import timedelta

import pytest

from stepgrant.errors import GatewayUnavailableError, GrantRefusedError, MisuseError, RefusalCode
from stepgrant.feed import SUPERSEDED
from stepgrant.grant import Binding, Tier
from stepgrant.ids import parse_ulid
from stepgrant.selector import Selector
from stepgrant.verify.feed import TrustedFeed
from stepgrant.verify.peers import TlsPeers
from stepgrant.verify.resource import LOOK_UP_AGAIN, Verifier
from stepgrant.verify.upstream import Redemption
from tests.kit.ca import FixedSource
from tests.kit.enforcement import AUDIENCE, ISSUER, REFUND, SECOND, GatewayDouble, ResourceDouble, UpstreamDouble, lock


class Guarded:
    """A verifier over a feed that the test drives and an upstream that it scripts."""

    def __init__(self, binding: Binding = Binding.MTLS) -> None:
        self.resource = ResourceDouble(GatewayDouble(binding=binding))
        self.gateway = self.resource.gateway
        self.upstream = UpstreamDouble(self.gateway)
        self.restart()

    def restart(self) -> None:
        """Another verifier, which remembers nothing."""
        source = FixedSource(self.gateway.trust_domain.snapshot("resource/orders"))
        peers = TlsPeers(source, self.gateway.clock)
        self.verifier = Verifier(
            self.resource.expected, self.resource.feed, self.upstream, self.gateway.clock, peers=peers
        )

    async def verify(self, token: str):
        return await self.verifier.verify(token, REFUND, self.gateway.holder(token))

    async def refused(self, token: str) -> RefusalCode:
        with pytest.raises(GrantRefusedError) as caught:
            await self.verify(token)
        return caught.value.refusal.code


@pytest.fixture
def guarded() -> Guarded:
    return Guarded()


async def test_a_routine_grant_without_uses_is_not_redeemed(guarded):
    await guarded.verify(guarded.gateway.mint())
    assert guarded.upstream.redeemed == []


@pytest.mark.parametrize("terms", [{"uses": 1}, {"tier": Tier.SENSITIVE}])
async def test_tk_10_uses_are_taken_at_the_gateway_before_the_call_goes_on_inv_08(guarded, terms):
    """INV-08: finite uses are redeemed at the gateway, each under an id of its own."""
    for _ in range(2):
        await guarded.verify(guarded.gateway.mint(**terms))
    ids = [redemption for _, redemption in guarded.upstream.redeemed]
    assert len({parse_ulid(one, "id") for one in ids}) == 2


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("used_up", RefusalCode.USED_UP),
        ("revoked", RefusalCode.REVOKED),
        ("superseded", RefusalCode.REVOKED),
        ("expired", RefusalCode.EXPIRED),
        ("unknown_grant", RefusalCode.REVOKED),
        ("something new", RefusalCode.REVOKED),
    ],
)
async def test_a_use_that_the_gateway_refuses_is_refused_here(guarded, code, expected):
    guarded.upstream.redemption = Redemption(accepted=False, code=code, reason="because.")
    assert await guarded.refused(guarded.gateway.mint(uses=1)) is expected


async def test_without_an_answer_the_call_does_not_go_on_inv_11(guarded):
    """INV-11: gateway away."""
    guarded.upstream.redemption = GatewayUnavailableError("away")
    assert await guarded.refused(guarded.gateway.mint(uses=1)) is RefusalCode.REDEMPTION_UNAVAILABLE


async def test_what_ends_the_grant_while_it_is_redeemed_counts(guarded):
    redeem = guarded.upstream.redeem

    async def redeem_while_locked(*arguments):
        guarded.resource.hear(lock(Selector(tool="orders.*")))
        return await redeem(*arguments)

    guarded.upstream.redeem = redeem_while_locked
    assert await guarded.refused(guarded.gateway.mint(uses=1)) is RefusalCode.LOCKED


async def test_a_key_that_is_faster_than_its_announcement_is_looked_up_once(guarded):
    guarded.gateway.keys.rotate(lambda _: None)
    await guarded.verify(guarded.gateway.mint())
    await guarded.verify(guarded.gateway.mint())
    assert guarded.upstream.looked_up == 1


async def test_tk_16_an_unknown_key_is_refused_after_one_look_up_inv_11(guarded):
    """INV-11: unknown key; and whoever sends many of them causes one look-up a second."""
    stranger = ResourceDouble().gateway
    stranger.keys.rotate(lambda _: None)
    token = stranger.mint()
    codes = await asyncio.gather(*(guarded.refused(token) for _ in range(10)))
    assert set(codes) == {RefusalCode.UNKNOWN_KEY}
    guarded.gateway.clock.advance(LOOK_UP_AGAIN / 2)
    assert await guarded.refused(token) is RefusalCode.UNKNOWN_KEY
    assert guarded.upstream.looked_up == 1
    guarded.gateway.clock.advance(LOOK_UP_AGAIN)
    assert await guarded.refused(token) is RefusalCode.UNKNOWN_KEY
    assert guarded.upstream.looked_up == 2


async def test_tk_16_a_look_up_that_fails_leaves_the_key_unknown(guarded):
    async def fail(_audiences):
        raise GatewayUnavailableError("away")

    guarded.upstream.snapshot = fail
    guarded.gateway.keys.rotate(lambda _: None)
    assert await guarded.refused(guarded.gateway.mint()) is RefusalCode.UNKNOWN_KEY


async def test_outcomes_are_attested_and_a_failure_to_do_so_is_no_failure_of_the_call(guarded, caplog):
    verified = await guarded.verify(guarded.gateway.mint())
    assert await guarded.verifier.attest(verified, completed=True)
    assert guarded.upstream.attested == [(verified.claims.grant_id, True)]

    async def fail(*_, **__):
        raise GatewayUnavailableError("away")

    guarded.upstream.attest = fail
    assert not await guarded.verifier.attest(verified, completed=False)
    assert "could not be attested" in caplog.text


async def test_it_says_what_it_verifies_for_and_whether_it_can(guarded):
    assert guarded.verifier.audience == AUDIENCE
    assert guarded.verifier.binding is Binding.MTLS
    assert guarded.verifier.healthy
    guarded.resource.feed.lose("gone")
    assert not guarded.verifier.healthy


@pytest.mark.parametrize(("gateway_id", "audience"), [("", AUDIENCE), (ISSUER, ""), ("gateway", AUDIENCE)])
async def test_without_issuer_or_audience_it_does_not_start_inv_13(guarded, gateway_id, audience):
    """INV-13: an unset security option."""
    source = FixedSource(None)
    with pytest.raises(MisuseError):
        async with Verifier.connect(gateway="127.0.0.1:1", gateway_id=gateway_id, audience=audience, identity=source):
            pass


async def test_without_an_identity_it_refuses_and_says_so(guarded):
    async with Verifier.connect(
        gateway="127.0.0.1:1", gateway_id=ISSUER, audience=AUDIENCE, identity=FixedSource(None)
    ) as verifier:
        with pytest.raises(GatewayUnavailableError):
            await verifier.ready(timedelta(milliseconds=50))
        token = guarded.gateway.mint()
        with pytest.raises(GrantRefusedError):
            await verifier.verify(token, REFUND, guarded.gateway.holder(token))


async def test_a_renewal_does_not_undo_a_use_that_was_taken_just_before(guarded):
    """Else the use would be lost: the caller is refused, and the newer grant has none left."""

    async def redeem(*_):
        guarded.resource.hear(guarded.gateway.revoked(SUPERSEDED))
        return Redemption(accepted=True)

    guarded.upstream.redeem = redeem
    token = guarded.gateway.mint(uses=1)
    assert (await guarded.verify(token)).claims.uses == 1
    assert await guarded.refused(token) is RefusalCode.REVOKED


async def test_rv_10_before_the_first_feed_everything_is_refused_inv_11(guarded):
    """INV-11: gateway away. `unknown_key` would have callers declare anew for ever."""
    guarded.verifier._feed = TrustedFeed(frozenset({AUDIENCE}))
    assert await guarded.refused(guarded.gateway.mint()) is RefusalCode.FEED_STALE
    assert guarded.upstream.looked_up == 0


async def test_no_argument_shows_in_what_is_printed_of_a_call(guarded):
    verified = await guarded.verify(guarded.gateway.mint())
    assert "40" not in repr(REFUND) + repr(verified).replace(repr(verified.claims), "")


async def test_what_ends_the_step_while_its_use_is_taken_counts_inv_05(guarded):
    """INV-05: only a renewal leaves the step alive."""

    async def redeem(*_):
        guarded.resource.hear(guarded.gateway.revoked("completed"))
        return Redemption(accepted=True)

    guarded.upstream.redeem = redeem
    assert await guarded.refused(guarded.gateway.mint(uses=1)) is RefusalCode.REVOKED


async def test_a_proof_from_before_a_restart_is_refused_inv_08():
    """INV-08: what the former life of the resource has seen is not remembered, so it is not taken."""
    guarded = Guarded(binding=Binding.KEY)
    gateway = guarded.gateway
    token, later = gateway.mint(), gateway.mint(expires_at=gateway.clock.now() + 9 * SECOND)
    seen = gateway.holder(token)
    await guarded.verifier.verify(token, REFUND, seen)
    guarded.resource.pass_time(SECOND)
    guarded.restart()
    with pytest.raises(GrantRefusedError, match="used before"):
        await guarded.verifier.verify(token, REFUND, seen)
    await guarded.verifier.verify(later, REFUND, gateway.holder(later))
