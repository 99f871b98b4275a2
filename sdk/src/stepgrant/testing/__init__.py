"""Testing agents without a gateway: one that answers what the test wrote, over the real protocol and real TLS."""

from stepgrant.testing.authority import ScriptedIdentity, ThrowAwayAuthority
from stepgrant.testing.gateway import ScriptedGateway
from stepgrant.testing.script import DeclaredStep, GrantRule, HandedOnStep, OpenedTask, ReportedStep

__all__ = [
    "DeclaredStep",
    "GrantRule",
    "HandedOnStep",
    "OpenedTask",
    "ReportedStep",
    "ScriptedGateway",
    "ScriptedIdentity",
    "ThrowAwayAuthority",
]
