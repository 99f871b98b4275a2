"""What policies read of a context: Cedar parses and checks all that it is given, which costs far more than deciding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from stepgrant_gateway.policy.expressions import path_of

_CONTEXT: Final = "context"


@dataclass(frozen=True, slots=True)
class Reads:
    """By member of the context the names below it that are read; None = the whole member. `members` None = all of it."""

    members: Mapping[str, frozenset[str] | None] | None

    def of(self, member: str) -> bool:
        """True if anything of this member of the context is read."""
        return self.members is None or member in self.members

    @property
    def nothing(self) -> bool:
        """True if nothing of the context is read."""
        return self.members is not None and not self.members

    def only(self, member: str, shown: Mapping[str, Any]) -> Mapping[str, Any]:
        """What is read of a record."""
        names = None if self.members is None else self.members[member]
        return shown if names is None else {name: shown[name] for name in names if name in shown}


EVERYTHING: Final = Reads(None)


def reads_of(conditions: Iterable[Any]) -> Reads:
    """What the conditions of policies (Cedar JSON) can read, also where they only ask for it with `has`.

    A context that is used otherwise than by its members is read whole, and so is a member.
    """
    found: dict[str, set[str] | None] = {}
    pending = list(conditions)
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, Mapping):
            path = _path_read(item)
            if path is None:
                pending.extend(item.values())
            elif not path:
                return EVERYTHING
            else:
                _add(found, path)
    return Reads({member: None if names is None else frozenset(names) for member, names in found.items()})


def _path_read(item: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Below the context: () = the context itself, None = this expression reads none by itself, its parts may."""
    path = path_of(item)
    if path is None and isinstance(item.get("has"), Mapping):
        asked, left = item["has"], path_of(item["has"].get("left"))
        if left is not None and left[0] == _CONTEXT:
            # `has a.b` stands there as more than a name: then what it asks of is read whole.
            path = (*left, asked["attr"]) if isinstance(asked.get("attr"), str) else left
    return path[1:] if path is not None and path[0] == _CONTEXT else None


def _add(found: dict[str, set[str] | None], path: tuple[str, ...]) -> None:
    member, *below = path
    if not below:
        found[member] = None
        return
    names = found.setdefault(member, set())
    if names is not None:
        names.add(below[0])
