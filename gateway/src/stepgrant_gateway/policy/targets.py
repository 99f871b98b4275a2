"""Targets: which rule of the catalog a target falls under. First match wins; no match is a denial."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stepgrant.selector import glob
from stepgrant_gateway.policy.declarations import TargetRule


def match_target(rules: Iterable[TargetRule], target: str) -> TargetRule | None:
    """The first rule that matches; `*` stands for any run of characters, `/` included."""
    for rule in rules:
        if glob(rule.match, target):
            return rule
    return None


def can_match(rules: Sequence[TargetRule], template: str) -> bool:
    """False if no target of the template can ever match a rule; judged by what stands before the first argument."""
    if "{" not in template:
        return match_target(rules, template) is not None
    literal = template.partition("{")[0]
    for rule in rules:
        fixed, star, _ = rule.match.partition("*")
        if fixed.startswith(literal) or (star and literal.startswith(fixed)):
            return True
    return False
