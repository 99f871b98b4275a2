"""The grants of a scripted gateway look like real ones."""

from __future__ import annotations

from stepgrant.grant import GRANT_TYPE, MAX_GRANT_BYTES, Binding, Tier, from_payload
from stepgrant.intent import digest, from_python
from stepgrant.jws import parse_jws, verify_jws
from stepgrant.testing import GrantRule


async def test_its_grants_have_the_claims_of_real_ones(gateway):
    rule = GrantRule(audience="spiffe://a/orders", binding=Binding.KEY, tier=Tier.SENSITIVE, uses=2, target="pg://o")
    gateway.grant("orders.get", rule)
    async with gateway.client("agent/support") as client, client.task("Refund") as task:
        async with task.step("orders.get", {"order_id": "o"}) as step:
            members = frozenset({"alg", "kid", "typ"})
            jws = parse_jws(step.grant.token, typ=GRANT_TYPE, members=members, max_bytes=MAX_GRANT_BYTES)
            claims = from_payload(verify_jws(jws, gateway.signing_key.public_key()))
            assert claims.confirmation == step.holder.instance_key.jkt
    assert (claims.subject, claims.tool, claims.uses) == ("spiffe://test.stepgrant.test/agent/support", "orders.get", 2)
    assert claims.args_sha256 == digest(from_python({"order_id": "o"}))
