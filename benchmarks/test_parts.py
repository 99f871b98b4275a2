"""What the parts of one decision cost. `make bench`; figures of one run are compared with each other, never asserted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

from stepgrant.grant import Binding, GrantClaims, Tier
from stepgrant.ids import ulid
from stepgrant.intent import canonical, digest, parse_object
from stepgrant_gateway.core.decision import Call, Permitted, Question, StepFacts, TaskFacts
from stepgrant_gateway.core.ledger import record_hash
from stepgrant_gateway.core.observations import UNOBSERVED, Boundary, Count, Course, Timing
from stepgrant_gateway.core.ports import Observer
from stepgrant_gateway.system import SystemClock
from stepgrant_gateway.tokens.keys import SigningKeys
from stepgrant_gateway.tokens.mint import GrantMinter
from stepgrant_gateway.web.metrics import Metrics
from tests.kit.clock import START, ManualClock
from tests.kit.heart import AGENT, ISSUER, ORDERS, REFUND, KeySigner, support_policy

TASK = ulid(START, b"0123456789")
ARGUMENTS = '{"query": "shoes", "limit": 5}'


def asked() -> Question:
    """A search of the support desk, ready to be decided on."""
    policy = support_policy()
    call = policy.catalog.prepare_call("orders.search", parse_object(ARGUMENTS))
    assert isinstance(call, Call)
    task = TaskFacts(TASK, "Refund", AGENT, dict(REFUND))
    budget = {name: Decimal(0) for name in policy.catalog.budgets}
    return Question(task, StepFacts(1, None, frozenset({AGENT})), call, budget, "x509", START)


def claims() -> GrantClaims:
    """What a grant of that search says."""
    question = asked()
    assert question.call is not None
    return GrantClaims(
        issuer=ISSUER,
        subject=AGENT,
        chain=(AGENT,),
        audience=ORDERS,
        issued_at=START,
        not_before=START,
        expires_at=START + timedelta(seconds=30),
        grant_id=TASK,
        task_id=TASK,
        step_id=TASK,
        task_type="Refund",
        tool="orders.search",
        tool_digest=question.call.tool.digest,
        target=question.call.target,
        args_sha256=question.call.args_sha256,
        binding=Binding.MTLS,
        confirmation=bytes(32),
        tier=Tier.ROUTINE,
        uses=None,
        policy_digest=support_policy().digest,
    )


def test_parse_and_digest_arguments(benchmark: Any) -> None:
    benchmark(lambda: digest(parse_object(ARGUMENTS)))


def test_prepare_a_call(benchmark: Any) -> None:
    catalog, arguments = support_policy().catalog, parse_object(ARGUMENTS)
    benchmark(catalog.prepare_call, "orders.search", arguments)


def test_decide(benchmark: Any) -> None:
    assert isinstance(benchmark(support_policy().evaluate, asked()), Permitted)


def test_mint(benchmark: Any) -> None:
    clock = ManualClock()
    keys = SigningKeys(TASK, KeySigner(), clock)
    keys.rotate(lambda _: None)
    assert benchmark(GrantMinter(keys).mint, claims()).count(".") == 2


def test_chain_a_record(benchmark: Any) -> None:
    body = canonical(parse_object(ARGUMENTS)) * 20
    assert len(benchmark(record_hash, TASK, 1, hashlib.sha256(b"").digest(), body)) == 32


def observe(observer: Observer, monotonic: Callable[[], timedelta]) -> None:
    """All that is noted and told of one step: its decision, its part in a commit, its end."""
    course = Course(Boundary.DECLARE, monotonic(), TASK, TASK, "orders.search")
    course.decided = monotonic()
    course.recorded = monotonic()
    observer.decided(course, "", monotonic())
    observer.time(Timing.LEDGER_APPEND, course.recorded - course.decided)
    observer.count(Count.GRANT_ENDED, "completed")
    observer.count(Count.GRANT_HELD_SECONDS, by=1.5)


def test_observing_a_step_for_prometheus(benchmark: Any) -> None:
    benchmark(observe, Metrics(), SystemClock().monotonic)


def test_observing_a_step_for_nobody(benchmark: Any) -> None:
    benchmark(observe, UNOBSERVED, SystemClock().monotonic)
