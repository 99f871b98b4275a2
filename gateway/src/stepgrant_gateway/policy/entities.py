"""One boundary as Cedar sees it: a request and its entities, as JSON values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stepgrant_gateway.core.decision import Question
from stepgrant_gateway.core.errors import GatewayError
from stepgrant_gateway.policy.catalog import LoadedCatalog


class UnrepresentableError(GatewayError):
    """A value that Cedar cannot hold exactly, such as a budget beyond its decimals: the decision is a deny."""

    code = "unrepresentable"


@dataclass(frozen=True, slots=True)
class CedarRequest:
    """What `cedarpy.is_authorized` takes. `principal`, `action` and `resource` are `{"type": ..., "id": ...}`."""

    principal: dict[str, str]
    action: dict[str, str]
    resource: dict[str, str]
    context: dict[str, Any]
    entities: list[dict[str, Any]]

    def request(self) -> dict[str, Any]:
        """The first argument of `cedarpy.is_authorized`."""
        return {
            "principal": self.principal,
            "action": self.action,
            "resource": self.resource,
            "context": self.context,
        }


def request_for(catalog: LoadedCatalog, question: Question) -> CedarRequest:
    """The request that asks `question`, with the entities it stands on (principal, target, gateway).

    Raises:
        UnrepresentableError: a budget or the age is beyond what Cedar holds; deny.
    """
    raise NotImplementedError
