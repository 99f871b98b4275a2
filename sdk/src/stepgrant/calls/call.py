"""What a mapping yields, and how it refuses."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepgrant.errors import GrantRefusedError, InvalidIdError, MisuseError, RefusalCode
from stepgrant.ids import parse_tool
from stepgrant.intent import Json


@dataclass(frozen=True, slots=True)
class Call:
    """What a request asks for: a tool `server.name` and its arguments as strict JSON."""

    tool: str
    arguments: dict[str, Json] = field(repr=False)


def registered_tool(tool: str, where: str) -> None:
    """Refuse, as misuse, a tool that is not `server.tool`; `where` names the registration."""
    try:
        parse_tool(tool)
    except InvalidIdError as error:
        raise MisuseError(f"{where}: {error}") from error


def unregistered(what: str) -> GrantRefusedError:
    """The refusal of a call that nobody registered."""
    return GrantRefusedError(
        RefusalCode.UNREGISTERED_CALL,
        f"{what} is not registered as a protected call.",
        "Register it with the tool that it is, or call one that is registered.",
    )


def malformed(reason: str) -> GrantRefusedError:
    """The refusal of a call that cannot be read in one way only."""
    return GrantRefusedError(RefusalCode.CALL_MALFORMED, f"the call cannot be read: {reason}.", "Mend the request.")
