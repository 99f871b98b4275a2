"""The guard: `@tool` declares, calls and reports; `task` opens what the tools work for."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, cast

from stepgrant.defaults import current_client
from stepgrant.envelope import Bounds
from stepgrant.errors import ArgumentsInvalidError, InvalidIdError, MisuseError
from stepgrant.handed import HandOff
from stepgrant.ids import parse_tool
from stepgrant.step import CURRENT_STEP, Step
from stepgrant.subject_token import SubjectToken
from stepgrant.tasks import CURRENT_TASK, Task, What
from stepgrant.threads import BlockingStep

_P = ParamSpec("_P")
_R = TypeVar("_R")


@asynccontextmanager
async def task(
    what: What, /, *, subject_token: SubjectToken | None = None, **parameters: object
) -> AsyncIterator[Task]:
    """An open task that the tools called inside work for, on behalf of the user whom `subject_token` (OIDC) is about:
    a token, or a function that brings the newest one whenever it is needed.

    `what` is a task type, or an assignment (`stepgrant.Assignment.read`) or a hand-off (`stepgrant.HandOff.read`), which says
    the parameters and opens one task, or one branch of a task.

    The client is the innermost that was entered with `async with stepgrant.connect(...)`; without one, the process has one
    of its own, made from STEPGRANT_GATEWAY, STEPGRANT_GATEWAY_ID and SPIFFE_ENDPOINT_SOCKET and closed with the loop.

    Raises:
        Denied: the gateway does not let this workload open this task.
        GatewayUnavailableError, IdentityUnavailableError: it could not be asked.
        ArgumentsInvalidError: strict JSON cannot carry the parameters.
    """
    client = await current_client()
    async with client.task(what, parameters, subject_token=subject_token) as opened:
        yield opened


def tool(
    name: str, /, *, purpose: str = "", wanted_ttl: timedelta | None = None, not_sent: Collection[str] = ()
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Makes a function the body of a tool: each call is a step of its own, declared before and reported after.

    The function's arguments, bound by its signature with defaults applied, are the tool's arguments. Left out are `self`,
    `cls`, those named in `not_sent`, and those that are None because that is their default. A tool called in the body of
    another opens a child step. A function that is not asynchronous is to be called outside the event loop's thread.

    Raises when called:
        Denied: the gateway said no; the body has not run.
        GatewayUnavailableError, TaskClosedError: there was no answer; the body has not run.
        Revoked: the step ended against the program's will while the body ran.
        MisuseError: no task is open here.
    """
    try:
        parse_tool(name)
    except InvalidIdError as error:
        raise MisuseError(f"@stepgrant.tool({name!r}): {error}") from error

    def guard(function: Callable[_P, _R]) -> Callable[_P, _R]:
        bind = _binder(name, function, frozenset(not_sent))

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def guarded(*args: _P.args, **kwargs: _P.kwargs) -> Any:
                async with _step(name, bind(args, kwargs), purpose, wanted_ttl) as step:
                    value = await function(*args, **kwargs)
                    _refuse_unfinished(name, value)
                    _note(step, value)
                    return value

            return cast("Callable[_P, _R]", guarded)

        @functools.wraps(function)
        def guarded_blocking(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with BlockingStep(_step(name, bind(args, kwargs), purpose, wanted_ttl)) as step:
                value = function(*args, **kwargs)
                _refuse_unfinished(name, value)
                _note(step, value)
                return value

        return guarded_blocking

    return guard


async def hand_off(to: str, envelope: Bounds, *, purpose: str = "") -> HandOff:
    """Hands the step whose body runs here on to the workload `to`: to be called in the body of a tool. See `Step.hand_off`.

    Raises:
        MisuseError: no step is open here, and as `Step.hand_off`.
    """
    return await current_step().hand_off(to, envelope, purpose=purpose)


def current_step() -> Step:
    """The innermost step whose body runs here; raises MisuseError if there is none."""
    step = CURRENT_STEP.get()
    if step is None:
        raise MisuseError(
            "a step is handed on and none is open here: "
            "do it in the body of a `@stepgrant.tool`, or inside `async with task.step(...)`"
        )
    return step


def _step(name: str, arguments: dict[str, object], purpose: str, wanted_ttl: timedelta | None) -> Step:
    current = CURRENT_TASK.get()
    if current is None:
        raise MisuseError(
            f"{name} was called and no task is open here: "
            'call it inside `async with stepgrant.task("TaskType", parameter=...):`, '
            "and in a thread of your own through `contextvars.copy_context().run`"
        )
    return current.step(name, arguments, purpose=purpose, wanted_ttl=wanted_ttl, parent=CURRENT_STEP.get())


def _refuse_unfinished(name: str, value: object) -> None:
    """Raises when the body has yet to run: a wrapper that is not `async def` may return what is."""
    if inspect.iscoroutine(value):
        value.close()
    elif not (inspect.isawaitable(value) or inspect.isgenerator(value) or inspect.isasyncgen(value)):
        return
    raise MisuseError(
        f"{name} returned a {type(value).__name__}, whose body would run after its step: "
        "make the function `async def` and await it there, or return a list"
    )


def _note(step: Step, value: object) -> None:
    try:
        step.result(value)
    except ArgumentsInvalidError:
        return  # Not every result is JSON; then the outcome is reported without a digest.


def _binder(
    name: str, function: Callable[..., Any], not_sent: frozenset[str]
) -> Callable[[tuple[Any, ...], dict[str, Any]], dict[str, object]]:
    """What turns the arguments of a call into those of the tool."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise MisuseError(f"{name}: a generator cannot be a tool, since its body outlives the call: return a list")
    signature = inspect.signature(function)
    keywords = next((one.name for one in signature.parameters.values() if one.kind is one.VAR_KEYWORD), None)
    for position, one in enumerate(signature.parameters.values()):
        if one.kind is one.VAR_POSITIONAL:
            raise MisuseError(f"{name}: *{one.name} has no names to send: name each parameter")
        if position == 0 and one.name in {"self", "cls"}:
            not_sent |= {one.name}
    unset = {one.name for one in signature.parameters.values() if one.default is None}

    def bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, object]:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        if keywords is not None:
            arguments.update(arguments.pop(keywords))
        return {
            key: value
            for key, value in arguments.items()
            if key not in not_sent and not (value is None and key in unset)
        }

    return bind
