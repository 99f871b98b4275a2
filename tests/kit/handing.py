"""The support desk that hands refunds on to the payments agent, which reads the order once more."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.kit.policy import SUPPORT

PAYMENTS = "spiffe://dev.stepgrant.test/agent/payments"
HANDING = """
@id("support-hands-refunds-to-payments")
permit (
  principal is Task::Refund in Workload::"spiffe://dev.stepgrant.test/agent/support",
  action == Action::"task.hand_off",
  resource
)
when { context.hand_off.tool == Tool::"orders.refund" }
when { context.hand_off.to in Workload::"spiffe://dev.stepgrant.test/agent/payments" };

@id("payments-takes-them-from-support")
permit (
  principal is Task::Refund in Workload::"spiffe://dev.stepgrant.test/agent/payments",
  action == Action::"task.hand_off",
  resource
)
when { context.hand_off.from in Workload::"spiffe://dev.stepgrant.test/agent/support" };

@id("payments-reads-quickly") @ttl("5s")
permit (
  principal is Task::Refund in Workload::"spiffe://dev.stepgrant.test/agent/payments",
  action == Action::"orders.get",
  resource in TargetGroup::"orders"
)
when { context.args.order_id == principal.order_id };
"""
_TASK = 'task: {type: Refund, workload: "%s", parameters: {order_id: ord_00000042, customer: jo@x.org}}'
_SUPPORT = _TASK % "spiffe://dev.stepgrant.test/agent/support"
_PAYMENTS = _TASK % PAYMENTS
_FROM_TO = 'hand_off: {from: "spiffe://dev.stepgrant.test/agent/support", to: "%s", tool: %s}'
_ON = _FROM_TO % (PAYMENTS, "orders.refund")
_CHAIN = f'chain: ["spiffe://dev.stepgrant.test/agent/support", "{PAYMENTS}"]'
CASES = f"""
- name: support hands a refund on to payments
  {_SUPPORT}
  given: {{{_ON}}}
  hand_off: true
  expect: {{decision: granted, policies: [support-hands-refunds-to-payments]}}
- name: payments takes it
  {_PAYMENTS}
  given: {{{_ON}}}
  hand_off: true
  expect: {{decision: granted, policies: [payments-takes-them-from-support]}}
- name: nothing else is handed on
  {_SUPPORT}
  given: {{{_FROM_TO % (PAYMENTS, "mail.send")}}}
  hand_off: true
  expect: {{decision: denied, code: no_permit}}
- name: nor to anybody else
  {_SUPPORT}
  given: {{{_FROM_TO % ("spiffe://dev.stepgrant.test/agent/triage", "orders.refund")}}}
  hand_off: true
  expect: {{decision: denied, code: no_permit}}
- name: both are asked when payments opens its branch
  {_PAYMENTS}
  given: {{{_CHAIN}, {_ON}}}
  hand_off: true
  expect: {{decision: granted, policies: [support-hands-refunds-to-payments, payments-takes-them-from-support]}}
- name: payments reads the order, on the least that both are given
  {_PAYMENTS}
  given: {{{_CHAIN}}}
  intent: {{tool: orders.get, arguments: {{order_id: ord_00000042}}, parent: {{tool: orders.refund, arguments: {{order_id: ord_00000042, amount: 40}}}}}}
  expect: {{decision: granted, ttl: 5s, uses: 1, policies: [refund-reads-an-order, payments-reads-quickly]}}
"""


def write_handed(into: Path) -> Path:
    """A policy directory below `into`."""
    directory = into / "policy"
    shutil.copytree(SUPPORT, directory)
    (directory / "handing.cedar").write_text(HANDING)
    (directory / "tests" / "handing.yaml").write_text(CASES)
    return directory
