"""AgentDojo's banking suite through a running gateway; exit status 0 only if it came out as it must.

Processes: the gateway with an embedded trust domain, the bank (verifies grants, executes), the agent (declares, calls),
and this one, which tells them what to do and lets AgentDojo judge what the bank's books say afterwards.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import report
import yaml
from benchmark import Benchmark, Judged, Run
from processes import Child, ChildError
from table import HERE, Request, named_by_policy, not_in_prompt, read_table
from trust import Gateway


def main() -> int:
    """Check the promises, run all of it, print the report."""
    benchmark = Benchmark()
    table = read_table()
    benign, attacked = benchmark.benign(), benchmark.attacked()
    wrong = broken_promises(benchmark, table, [*benign, *attacked])
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    print(f"{len(benign)} user tasks, {len(attacked)} pairs with an attack; every parameter stands in its prompt;")
    print("no value of the benchmark's calls stands in the policy", flush=True)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stepgrant-agentdojo-")))
        gateway = stack.enter_context(Gateway(directory))
        results, seconds = perform_all(benchmark, gateway, directory, table, [*benign, *attacked])
        gateway.stop()
        audit = gateway.audit()
    alone, paired = results[: len(benign)], results[len(benign) :]
    print("\n".join(report.lines(alone, paired, table, seconds, audit)))
    return 0 if report.came_out_well(alone, paired) else 1


def perform_all(
    benchmark: Benchmark,
    gateway: Gateway,
    directory: Path,
    table: Mapping[str, Sequence[Request]],
    runs: Sequence[Run],
) -> tuple[list[report.Result], float]:
    """All runs one after the other with one bank and one agent, and the seconds that they took."""
    python = [sys.executable, "-u"]
    with ExitStack() as stack:
        command = [*gateway.identified("resource/bank"), *python, str(HERE / "bank.py")]
        bank = stack.enter_context(Child("the bank", command, directory / "bank.log"))
        address = bank.answer()["listening"]
        command = [*gateway.identified("agent/banking"), *python, str(HERE / "agent.py")]
        agent = stack.enter_context(Child("the agent", command, directory / "agent.log", {"BANK_URL": address}))
        agent.answer()
        begun = time.monotonic()
        results = [perform(benchmark, bank, agent, run, table[run.user_task]) for run in runs]
        seconds = time.monotonic() - begun
        # That the bank enforces, and not just the agent that asks: the same door, without a grant.
        bare = httpx.post(f"{address}/tools/get_balance", json={})
        if bare.status_code != httpx.codes.UNAUTHORIZED:
            raise ChildError(f"the bank answered a call without a grant with {bare.status_code}")
        return results, seconds


def perform(benchmark: Benchmark, bank: Child, agent: Child, run: Run, requests: Sequence[Request]) -> report.Result:
    """One run: set the books, let the agent act, take the books, have them judged."""
    bank.ask({"load": run.environment})
    outcomes: list[dict[str, Any]] = agent.ask(
        {
            "tasks": [{"type": request.task_type, "parameters": dict(request.parameters)} for request in requests],
            "calls": [
                {"tool": call.tool, "arguments": dict(call.arguments), "injected": call.injected} for call in run.calls
            ],
        }
    )
    gated: Judged = benchmark.judge(run, bank.ask({"dump": True})["environment"])
    return report.Result(run, outcomes, gated, benchmark.ungated(run))


def broken_promises(benchmark: Benchmark, table: Mapping[str, Sequence[Request]], runs: Sequence[Run]) -> list[str]:
    """What makes the figures worthless: an invented parameter, a rule that names the benchmark's values, other tools."""
    prompts = benchmark.prompts()
    wrong = [f"tasks.yaml does not list {name}" for name in sorted(prompts.keys() ^ table.keys())]
    for name, requests in table.items():
        wrong += [
            f"tasks.yaml: {name}: {found} is not in the prompt" for found in not_in_prompt(requests, prompts[name])
        ]
    values = {value for run in runs for call in run.calls for value in call.arguments.values()}
    wrong += [f"the policy names {value!r}, a value of the benchmark" for value in named_by_policy(values)]
    if yaml.safe_load((HERE / "policy" / "tools" / "banking.json").read_text(encoding="utf-8")) != benchmark.tools():
        wrong.append("policy/tools/banking.json differs from AgentDojo's own tool schemas")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
