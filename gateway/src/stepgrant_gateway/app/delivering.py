"""Delivery: a decision that is durable becomes a token in the agent's hand, if the step is still live."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial

from stepgrant.errors import Denial
from stepgrant.grant import Binding, GrantClaims
from stepgrant.ids import ULID_RANDOM_BYTES, ulid
from stepgrant_gateway.app.authorizer import Decided
from stepgrant_gateway.app.expiry import Deadline, Deadlines
from stepgrant_gateway.app.open_tasks import LiveGrant, Step, Task
from stepgrant_gateway.app.refusals import denial, limit, over
from stepgrant_gateway.app.revoking import Endings
from stepgrant_gateway.app.state import State
from stepgrant_gateway.core.boundary import Audienced, StepGranted
from stepgrant_gateway.core.decision import Call
from stepgrant_gateway.core.errors import GatewayError
from stepgrant_gateway.core.ports import Clock, Entropy, Minter
from stepgrant_gateway.core.steps import StepInput


@dataclass(frozen=True, slots=True)
class Signing:
    """Who signs grants, and in whose name: the SPIFFE ID shared by all gateways of the installation."""

    issuer: str
    minter: Minter


class Delivery:
    """Holds grants ready, and hands them out once their decision is durable."""

    def __init__(
        self, *, state: State, clock: Clock, entropy: Entropy, endings: Endings, deadlines: Deadlines, signing: Signing
    ) -> None:
        self._state = state
        self._clock = clock
        self._entropy = entropy
        self._endings = endings
        self._deadlines = deadlines
        self._signing = signing

    def hold(self, task: Task, step: Step, call: Call, decided: Decided) -> LiveGrant:
        """The grant of a decision, with an id and a deadline, and no token yet."""
        now = decided.at
        grant = LiveGrant(
            grant_id=ulid(now, self._entropy(ULID_RANDOM_BYTES)),
            decision_id=ulid(now, self._entropy(ULID_RANDOM_BYTES)),
            audience=call.tool.audience.id,
            lifetime=decided.lifetime,
            terms=decided.terms,
            policy_digest=self._state.policy.digest,
            held_against=self._state.policy.digest,
            deadline=self._expire(task, step, decided.lifetime.expires_at),
        )
        self._state.grants[grant.grant_id] = step
        return grant

    def drop(self, grant: LiveGrant) -> None:
        """The grant will never be delivered."""
        grant.deadline.cancel()
        self._state.grants.pop(grant.grant_id, None)

    def sign(self, task: Task, step: Step, call: Call, grant: LiveGrant) -> str | GatewayError:
        """The token, for `deliver` only; or why there is none: it would be too large, or there is no key to sign it with."""
        try:
            return self._signing.minter.mint(self._claims(task, step, call, grant))
        except GatewayError as error:
            return error

    def deliver(
        self, task: Task, step: Step, call: Call, grant: LiveGrant, token: str | GatewayError
    ) -> StepGranted | Denial:
        """The answer with the token of `sign`; a denial if the step has ended meanwhile."""
        if not step.live or step.grant is not grant or not self._endings.still_permitted(task, step):
            return over(step)
        if isinstance(token, GatewayError):
            # On record and yet not to be had.
            reason = "its grant could not be signed."
            self._endings.end_step(task, step, StepInput.REVOKE, code="undelivered", reason=reason, by="gateway")
            unsigned = limit(f"the grant could not be signed: {token}.", "ask the operator.")
            return denial(unsigned, grant.decision_id, step.key[1])
        grant.answer = StepGranted(
            step_id=step.key[1],
            decision_id=grant.decision_id,
            token=token,
            grant_id=grant.grant_id,
            expires_at=grant.lifetime.expires_at,
            step_expires_at=step.ends_at or grant.lifetime.expires_at,
            uses=step.uses_left,
            tier=grant.terms.tier,
            audience=Audienced(grant.audience, call.tool.audience.binding),
            target=call.target,
            at=self._clock.now(),
            policies=grant.terms.policies,
        )
        return grant.answer

    def overdue(self, task: Task, step: Step) -> bool:
        """True if its grant has run out by the wall clock, and then it has ended: its deadline is still on the way.

        So it is when the machine slept, or the clock was set ahead. What has expired is not renewed.
        """
        if step.held.lifetime.expires_at > self._clock.now():
            return False
        self._expired(task, step)
        return True

    def _claims(self, task: Task, step: Step, call: Call, grant: LiveGrant) -> GrantClaims:
        binding = call.tool.audience.binding
        return GrantClaims(
            issuer=self._signing.issuer,
            subject=task.workload,
            chain=task.chain,
            audience=grant.audience,
            issued_at=grant.lifetime.issued_at,
            not_before=grant.lifetime.issued_at,
            expires_at=grant.lifetime.expires_at,
            grant_id=grant.grant_id,
            task_id=task.task_id,
            step_id=step.key[1],
            task_type=task.task_type.name,
            tool=call.tool.name,
            tool_digest=call.tool.digest,
            target=call.target,
            args_sha256=call.args_sha256,
            binding=binding,
            confirmation=step.peer.credential_sha256 if binding is Binding.MTLS else task.instance_jkt,
            tier=grant.terms.tier,
            uses=step.uses_left,
            policy_digest=grant.policy_digest,
            on_behalf_of=None if task.subject is None else task.subject.id,
        )

    def _expire(self, task: Task, step: Step, at: datetime) -> Deadline:
        return self._deadlines.at(at, partial(self._expired, task, step))

    def _expired(self, task: Task, step: Step) -> None:
        if step.live:
            self._endings.end_step(
                task, step, StepInput.EXPIRE, code="expired", reason="its grant has run out.", by="gateway"
            )
