"""An agent's step and the gateway's decision on it are in one trace, if both have OpenTelemetry, and say no values."""

from __future__ import annotations

import pytest
from opentelemetry import trace

from stepgrant.errors import Denied
from stepgrant_gateway import wiring
from stepgrant_gateway.tracing import Tracing
from tests.faults.outputs import gathered_outputs
from tests.kit.running import running_gateway

PARAMETERS = {"order_id": "ord_00000042", "customer": "jo@x.org"}


async def test_a_step_and_its_decision_are_in_one_trace(monkeypatch):
    with gathered_outputs() as outputs:
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: outputs.provider)
        monkeypatch.setattr(wiring, "begin_tracing", lambda _, __, then: Tracing(outputs.provider, then))
        async with running_gateway() as running:
            client = await running.client()
            with trace.get_tracer("agent").start_as_current_span("chat") as chat:
                async with client.task("Refund", PARAMETERS) as task:
                    async with task.step("orders.get", {"order_id": "ord_00000042"}) as step:
                        trace.get_tracer("agent").start_span("call").end()
                    with pytest.raises(Denied):
                        async with task.step("orders.refund", {"order_id": "ord_00000043", "amount": 4}):
                            pytest.fail("the body ran")
        spans = {span.name: span for span in outputs.exporter.get_finished_spans()}

    executed, called, decided = spans["execute_tool orders.get"], spans["call"], spans["declare orders.get"]
    assert called.parent.span_id == executed.context.span_id
    assert decided.parent.span_id == executed.parent.span_id == chat.get_span_context().span_id
    assert {span.context.trace_id for span in (executed, called, decided)} == {chat.get_span_context().trace_id}
    assert executed.attributes["gen_ai.tool.call.id"] == decided.attributes["gen_ai.tool.call.id"] == step.id
    assert spans["execute_tool orders.refund"].attributes["error.type"] == "no_permit"
    assert spans["declare orders.refund"].attributes["stepgrant.code"] == "no_permit"
    assert not any("ord_0000004" in span.to_json() for span in spans.values())
