"""What must not work, and what the one who tries it is really told. Each scene says what it must come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from world import World

GET: Final = {"call": "Get", "message": {"order_id": "ord_00000042"}}
GET_77: Final = {"call": "Get", "message": {"order_id": "ord_00000077"}}
SEARCH: Final = {"call": "Search", "message": {"query": "jo@x.org"}}
REFUND: Final = {"call": "Refund", "message": {"order_id": "ord_00000042", "amount": 4}}
WALL: Final = """\
@id("under-investigation")
@reason("Order ord_00000077 is under investigation.")
forbid (principal, action in Action::"orders.*", resource == Target::"pg://orders/ord_00000077");
"""
"""What the operator adds to the policy directory in the last scene."""


@dataclass(frozen=True, slots=True)
class Told:
    """What `who` was told, in the words that it heard: an exception of the SDK, or a gRPC or HTTP status with its text."""

    who: str
    error: str
    code: str
    text: str
    wanted: str

    @property
    def right(self) -> bool:
        """True if that is what it had to be."""
        return self.code == self.wanted


@dataclass(frozen=True, slots=True)
class Shown:
    """One scene as it came out. `note`: what is worth knowing besides, such as a time that was measured."""

    told: Sequence[Told]
    note: str = ""

    @property
    def right(self) -> bool:
        """True if everybody was told what they had to be told."""
        return all(one.right for one in self.told)


def other_argument(world: World) -> Shown:
    """An argument that is not the task's."""
    return Shown([_told("agent", world.agent.ask({"scene": "other_argument"}), "no_permit")])


def undeclared_tool(world: World) -> Shown:
    """A tool that the catalog does not declare."""
    return Shown([_told("agent", world.agent.ask({"scene": "undeclared_tool"}), "no_permit")])


def other_task_type(world: World) -> Shown:
    """A task type that this workload may not open."""
    return Shown([_told("agent/triage", world.thief.ask({"open": "Refund"}), "no_permit")])


def after_its_step(world: World) -> Shown:
    """A grant shown again after its step."""
    loot = world.agent.ask({"scene": "step_of_get"})
    told = world.thief.ask({**GET, **_with(loot)})
    _over(world)
    return Shown([_told("thief", told, "revoked")])


def other_arguments(world: World) -> Shown:
    """A live grant for a refund of 4, used for one of 4000."""
    loot = world.agent.ask({"scene": "step_of_refund"})
    told = world.thief.ask({"call": "Refund", "message": {**REFUND["message"], "amount": 4000}, **_with(loot)})
    _over(world)
    return Shown([_told("thief", told, "arguments")])


def other_workload(world: World) -> Shown:
    """A live grant, used by another workload for the very call."""
    loot = world.agent.ask({"scene": "step_of_refund"})
    told = world.thief.ask({**REFUND, "token": loot["token"]})
    _over(world)
    return Shown([_told("thief", told, "holder")])


def no_grant(world: World) -> Shown:
    """A call without a grant, over gRPC and over HTTP."""
    over_grpc, over_http = world.thief.ask(GET), world.thief.ask({"post": "message"})
    return Shown([_told("thief", over_grpc, "grant_missing"), _told("thief", over_http, "grant_missing")])


def out_of_time(world: World) -> Shown:
    """A step that runs out of time."""
    loot = world.agent.ask({"scene": "out_of_time"})
    agent = world.agent.answer()
    told = world.thief.ask({**SEARCH, **_with(loot)})
    return Shown([_told("agent", agent, "expired"), _told("thief", told, "expired")])


def renewal(world: World) -> Shown:
    """A renewal: the old grant is dead, the new one works."""
    old = world.agent.ask({"scene": "step_of_search"})
    before = world.thief.ask({**SEARCH, **_with(old)})
    new = world.agent.ask({"renew": True})
    dead = world.thief.ask({**SEARCH, **_with(old), "until_refused": True})
    lives = world.thief.ask({**SEARCH, **_with(new)})
    _over(world)
    told = [_told("thief", before, "accepted"), _told("thief", dead, "revoked"), _told("thief", lives, "accepted")]
    return Shown(told, "the old grant was accepted before the renewal; the new one is accepted after it")


def killed(world: World) -> Shown:
    """The grant, certificate and key of an agent killed in the middle of a step."""
    loot = world.doomed.ask({"scene": "step_of_search"})
    world.thief.ask({**SEARCH, **_with(loot), "until_refused": "say"})
    killed_at = world.doomed.kill()
    told = world.thief.answer()
    after = (told["at"] - killed_at) * 1000
    note = f"refused {after:.1f} ms after SIGKILL, with {loot['life']:.0f} s of life left; accepted {told['calls']} times before"
    return Shown([_told("thief", told, "revoked")], note)


def locked(world: World) -> Shown:
    """An operator's lock ends a live grant."""
    loot = world.agent.ask({"scene": "step_of_search"})
    lock = world.operate("lock", "--tool", "orders.*", "--reason", "incident 7: orders are frozen")
    agent = world.agent.answer()
    told = world.thief.ask({**SEARCH, **_with(loot), "until_refused": True})
    world.operate("unlock", lock["lock"]["lock_id"], "--reason", "incident 7 is over")
    note = f"operator$ stepgrant lock --tool 'orders.*' --reason '...': {lock['ended_steps']} live step ended"
    return Shown([_told("agent", agent, "locked"), _told("thief", told, "locked")], note)


def reloaded(world: World) -> Shown:
    """A policy reload ends a live grant."""
    loot = world.agent.ask({"scene": "step_of_order_77"})
    (world.policy / "investigation.cedar").write_text(WALL, encoding="utf-8")
    reload = world.operate("policy", "reload")
    agent = world.agent.answer()
    told = world.thief.ask({**GET_77, **_with(loot), "until_refused": True})
    note = f"operator$ stepgrant policy reload: {reload['cases']} golden cases pass, {reload['ended_steps']} live step ended"
    return Shown([_told("agent", agent, "policy_changed"), _told("thief", told, "revoked")], note)


SCENES: Final[Sequence[Callable[[World], Shown]]] = (
    other_argument,
    undeclared_tool,
    other_task_type,
    after_its_step,
    other_arguments,
    other_workload,
    no_grant,
    out_of_time,
    renewal,
    killed,
    locked,
    reloaded,
)


def _over(world: World) -> None:
    """Lets the agent's step end; the thief is done with its grant."""
    world.agent.ask({})


def _with(loot: Mapping[str, Any]) -> dict[str, Any]:
    return {"token": loot["token"], "with": {"chain": loot["chain"], "key": loot["key"]}}


def _told(who: str, answer: Mapping[str, Any], wanted: str) -> Told:
    return Told(who, answer.get("error", ""), answer["code"], answer.get("text", ""), wanted)
