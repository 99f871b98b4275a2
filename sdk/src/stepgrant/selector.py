"""The selector of a lock: one pure match, run by the gateway and by every verifier."""

from __future__ import annotations

from dataclasses import dataclass

from stepgrant.errors import InvalidInputError
from stepgrant.subject import parse_subject_id


@dataclass(frozen=True, slots=True)
class Selector:
    """What a lock is about. Every field that is set must match; at least one is set.

    `workload`: a SPIFFE ID, matched with all that lie below it by whole path segments. `tool`: `server.name` or
    `server.*`. `target`: with `*` for any run of characters. `subject`: `issuer#sub`, exactly.
    """

    workload: str | None = None
    task_type: str | None = None
    tool: str | None = None
    target: str | None = None
    subject: str | None = None

    def __post_init__(self) -> None:
        """Refuse a selector that says nothing, or says it with an empty text."""
        fields = (self.workload, self.task_type, self.tool, self.target, self.subject)
        if not any(fields) or "" in fields:
            raise InvalidInputError(
                "a lock needs a workload, a task type, a tool, a target or a subject, and none of them empty"
            )
        if self.subject is not None:
            parse_subject_id(self.subject)


def matches(
    selector: Selector, *, workload: str, task_type: str, tool: str | None, target: str | None, subject: str | None
) -> bool:
    """True if a grant (or, with tool and target None, a task about to open) falls under the selector.

    Opening a task matches only a selector that names neither tool nor target. `subject` None: on nobody's behalf.
    """
    if selector.subject is not None and selector.subject != subject:
        return False
    if selector.workload is not None and workload != selector.workload:
        prefix = selector.workload.rstrip("/") + "/"
        if not workload.startswith(prefix):
            return False
    if selector.task_type is not None and selector.task_type != task_type:
        return False
    if selector.tool is not None and not _tool(selector.tool, tool):
        return False
    return selector.target is None or (target is not None and glob(selector.target, target))


def glob(pattern: str, text: str) -> bool:
    """True if `text` matches `pattern`, where `*` stands for any run of characters and all else for itself.

    Linear in the text for each star; no regular expression, so no pattern is catastrophic.
    """
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == text
    if not text.startswith(first):
        return False
    position, last = len(first), rest.pop()
    for piece in rest:
        found = text.find(piece, position)
        if found < 0:
            return False
        position = found + len(piece)
    return len(text) - len(last) >= position and text.endswith(last)


def _tool(pattern: str, tool: str | None) -> bool:
    if tool is None:
        return False
    return tool.startswith(pattern[:-1]) if pattern.endswith(".*") else tool == pattern
