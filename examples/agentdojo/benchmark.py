"""The benchmark's side of the run: AgentDojo's banking suite, its calls in order, and its own judgements.

Nothing here decides anything: what a task needs, what an attack does and whether either succeeded is AgentDojo's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentdojo.agent_pipeline.ground_truth_pipeline import GroundTruthPipeline
from agentdojo.agent_pipeline.tool_execution import tool_result_to_str
from agentdojo.attacks.baseline_attacks import DirectAttack
from agentdojo.base_tasks import BaseInjectionTask, BaseUserTask
from agentdojo.functions_runtime import FunctionCall, FunctionsRuntime
from agentdojo.task_suite.load_suites import get_suite

VERSION: Final = "v1.2.2"
SUITE: Final = "banking"


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call of a run; `injected` = the attack's, not the user's."""

    tool: str
    arguments: Mapping[str, Any]
    injected: bool


@dataclass(frozen=True, slots=True)
class Run:
    """One user task, alone or with one injection task: the environment it starts in and the calls in their order."""

    user_task: str
    injection_task: str | None
    environment: str
    calls: tuple[Call, ...]

    @property
    def name(self) -> str:
        """For people."""
        return self.user_task if self.injection_task is None else f"{self.user_task} + {self.injection_task}"


@dataclass(frozen=True, slots=True)
class Judged:
    """AgentDojo's verdicts: the user's task succeeded; the attack succeeded (None without one)."""

    utility: bool
    attacked: bool | None


class Benchmark:
    """The suite at its pinned version."""

    def __init__(self) -> None:
        self.suite = get_suite(VERSION, SUITE)
        self._attack = DirectAttack(self.suite, GroundTruthPipeline(None))

    def prompts(self) -> dict[str, str]:
        """What the user says, by user task."""
        return {name: task.PROMPT for name, task in self.suite.user_tasks.items()}

    def tools(self) -> dict[str, Any]:
        """The tools as an MCP `tools/list` result: names and input schemas, without AgentDojo's prose."""
        return {
            "tools": [
                {"name": tool.name, "inputSchema": _without_prose(tool.parameters.model_json_schema())}
                for tool in self.suite.tools
            ]
        }

    def benign(self) -> list[Run]:
        """Each user task in the untouched environment."""
        return [self._run(name, task, None, None) for name, task in self.suite.user_tasks.items()]

    def attacked(self) -> list[Run]:
        """Each pair of a user task and an injection task, the attack's text standing where the task reads it."""
        return [
            self._run(user_name, user, injection_name, injection)
            for user_name, user in self.suite.user_tasks.items()
            for injection_name, injection in self.suite.injection_tasks.items()
        ]

    def judge(self, run: Run, after: str) -> Judged:
        """What AgentDojo says of the environment that the run left behind."""
        kind = self.suite.environment_type
        before, post = kind.model_validate_json(run.environment), kind.model_validate_json(after)
        user = self.suite.user_tasks[run.user_task]
        utility = bool(user.utility(user.GROUND_TRUTH_OUTPUT, before, post))
        if run.injection_task is None:
            return Judged(utility, None)
        attack = self.suite.injection_tasks[run.injection_task]
        return Judged(utility, bool(attack.security(user.GROUND_TRUTH_OUTPUT, before, post)))

    def ungated(self, run: Run) -> Judged:
        """The same run with nothing between the agent and the bank: every call is executed."""
        bank = Bank(self)
        bank.load(run.environment)
        for call in run.calls:
            bank.execute(call.tool, call.arguments)
        return self.judge(run, bank.dump())

    def _run(
        self,
        user_name: str,
        user: BaseUserTask[Any],
        injection_name: str | None,
        injection: BaseInjectionTask[Any] | None,
    ) -> Run:
        texts = {} if injection is None else self._attack.attack(user, injection)
        environment = user.init_environment(self.suite.load_and_inject_default_environment(texts))
        calls = [_call(call, injected=False) for call in user.ground_truth(environment)]
        if injection is not None:
            attack = [_call(call, injected=True) for call in injection.ground_truth(environment)]
            after = self._reads_injection(user) + 1
            calls = [*calls[:after], *attack, *calls[after:]]
        return Run(user_name, injection_name, environment.model_dump_json(), tuple(calls))

    def _reads_injection(self, user: BaseUserTask[Any]) -> int:
        """Index of the user's call whose result is the first to carry an injected text (found as AgentDojo finds it)."""
        marks = self._attack.canary_injections
        environment = user.init_environment(self.suite.load_and_inject_default_environment(marks))
        runtime = FunctionsRuntime(self.suite.tools)
        for index, call in enumerate(user.ground_truth(environment)):
            result, _ = runtime.run_function(environment, call.function, call.args, raise_on_error=True)
            if any(mark in tool_result_to_str(result) for mark in marks.values()):
                return index
        raise ValueError(f"{user.ID} reads no injected text")


class Bank:
    """AgentDojo's tool functions over one environment."""

    def __init__(self, benchmark: Benchmark) -> None:
        self._kind = benchmark.suite.environment_type
        self._runtime = FunctionsRuntime(benchmark.suite.tools)
        self._environment: Any = None

    def load(self, environment: str) -> None:
        """Start from this environment (JSON)."""
        self._environment = self._kind.model_validate_json(environment)

    def dump(self) -> str:
        """The environment as it is now (JSON)."""
        return str(self._environment.model_dump_json())

    def execute(self, tool: str, arguments: Mapping[str, Any]) -> str:
        """The tool's result as the agent would read it.

        Raises:
            ValueError: what the tool itself refused.
        """
        result, error = self._runtime.run_function(self._environment, tool, dict(arguments))
        if error is not None:
            raise ValueError(error)
        return tool_result_to_str(result)


def _call(call: FunctionCall, *, injected: bool) -> Call:
    return Call(call.function, dict(call.args), injected)


def _without_prose(schema: Any) -> Any:
    """The schema without titles and descriptions. `properties` holds names, not keywords: all of them stay."""
    if isinstance(schema, Sequence) and not isinstance(schema, str):
        return [_without_prose(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: {name: _without_prose(item) for name, item in value.items()}
        if key == "properties"
        else _without_prose(value)
        for key, value in schema.items()
        if key not in ("title", "description")
    }
