"""The grants of a scripted gateway: with the claims of real ones, by a key that nobody trusts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from stepgrant.grant import GRANT_TYPE, Binding, GrantClaims, to_payload
from stepgrant.ids import ulid
from stepgrant.intent import digest
from stepgrant.jws import sign_jws
from stepgrant.testing.script import DeclaredStep, GrantRule, OpenedTask
from stepgrant.v1 import agent_pb2

BINDINGS: Final = {Binding.MTLS: agent_pb2.BINDING_MTLS, Binding.KEY: agent_pb2.BINDING_KEY}
POLICY_DIGEST: Final = "sha256:" + "0" * 64


@dataclass(frozen=True, slots=True)
class Signer:
    """Who the gateway is, what it signs with, and its clock."""

    gateway_id: str
    instance_id: str
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    now: Callable[[], datetime]

    def new_id(self) -> str:
        """A fresh ULID."""
        return ulid(self.now(), os.urandom(10))

    def grant(self, declared: DeclaredStep, rule: GrantRule, task: OpenedTask, leaf_sha256: bytes) -> agent_pb2.Granted:
        """A fresh grant by `rule`, bound to the certificate or to the instance key of the task."""
        now = self.now().replace(microsecond=0)
        ttl = min(rule.ttl, declared.wanted_ttl or rule.ttl)
        claims = GrantClaims(
            issuer=self.gateway_id,
            subject=task.workload,
            chain=(*task.came_through, task.workload),
            audience=rule.audience,
            issued_at=now,
            not_before=now,
            expires_at=now + ttl,
            grant_id=self.new_id(),
            task_id=task.task_id,
            step_id=declared.step_id,
            task_type=task.task_type,
            tool=declared.tool,
            tool_digest=hashlib.sha256(declared.tool.encode()).digest(),
            target=rule.target,
            args_sha256=digest(dict(declared.arguments)),
            binding=rule.binding,
            confirmation=task.instance_jkt if rule.binding is Binding.KEY else leaf_sha256,
            tier=rule.tier,
            uses=rule.uses,
            policy_digest=POLICY_DIGEST,
        )
        header = {"typ": GRANT_TYPE, "kid": f"{self.instance_id}-1"}
        return agent_pb2.Granted(
            step_id=declared.step_id,
            decision_id=self.new_id(),
            grant=sign_jws(header, json.dumps(to_payload(claims)).encode(), self.key),
            grant_id=claims.grant_id,
            expires_unix_ms=unix_ms(claims.expires_at),
            uses=rule.uses or 0,
            tier=rule.tier.value,
            audience=rule.audience,
            binding=BINDINGS[rule.binding],
            target=rule.target,
            at_unix_ms=unix_ms(now),
            step_expires_unix_ms=unix_ms(now + max(rule.step_max_age, ttl)),
            policies=["scripted"],
        )


def unix_ms(time: datetime) -> int:
    """Milliseconds since the Unix epoch."""
    return (time - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)
