"""Policies as they stand in the directory: text, place, and Cedar's own JSON reading of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import cedarpy

from stepgrant_gateway.core.decision import PolicyPlace
from stepgrant_gateway.core.errors import Finding
from stepgrant_gateway.policy.expressions import MAX_EXPRESSION_DEPTH, depth
from stepgrant_gateway.policy.lexer import Piece, split

MAX_POLICIES: Final = 200_000
MAX_POLICY_CHARACTERS: Final = 64 * 1024

_TWICE: Final = re.compile(r"duplicate annotation: (@\w+)")


@dataclass(frozen=True, slots=True)
class Statement:
    """One policy. `number` is its place in the set and its Cedar id; `document` is Cedar's JSON form of it.

    `place.policy_id` is its `@id`, empty while that is missing.
    """

    number: int
    place: PolicyPlace
    text: str
    document: Mapping[str, Any]

    @property
    def permits(self) -> bool:
        """True for a permit, false for a forbid."""
        return bool(self.document["effect"] == "permit")

    @property
    def annotations(self) -> Mapping[str, str | None]:
        """As written; an annotation without a value has None."""
        found: Mapping[str, str | None] = self.document.get("annotations", {})
        return found

    def finding(self, message: str, nearest: str = "") -> Finding:
        """Something that is wrong with this policy."""
        return Finding(self.place.file, self.place.line, self.place.policy_id, message, nearest)


def read_statements(files: Mapping[str, bytes]) -> tuple[tuple[Statement, ...], tuple[Finding, ...]]:
    """Every policy of every .cedar file, numbered in order, and what cannot be read."""
    statements: list[Statement] = []
    findings: list[Finding] = []
    for name, content in sorted(files.items()):
        if not name.endswith(".cedar"):
            continue
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            findings.append(Finding(name, content.count(b"\n", 0, error.start) + 1, "", "This line is not UTF-8."))
            continue
        pieces, unread = split(name, text)
        findings += unread
        if len(statements) + len(pieces) > MAX_POLICIES:
            findings.append(Finding(name, 0, "", f"takes the set past the {MAX_POLICIES} policies that it may have."))
            break
        for piece, document in zip(pieces, _documents(pieces), strict=True):
            problem = document if isinstance(document, str) else _problem(piece, document)
            if problem or isinstance(document, str):
                findings.append(Finding(name, piece.line, "", problem))
                continue
            policy_id = document.get("annotations", {}).get("id") or ""
            place = PolicyPlace(policy_id, piece.file, piece.line)
            statements.append(Statement(len(statements), place, piece.text, document))
    return tuple(statements), tuple(findings)


def set_document(documents: Mapping[str, Mapping[str, Any]]) -> str:
    """The JSON text of a set of policies by Cedar id."""
    return json.dumps({"staticPolicies": documents, "templates": {}, "templateLinks": []})


def _documents(pieces: tuple[Piece, ...]) -> list[Mapping[str, Any] | str]:
    """Cedar's reading of each piece, or what is wrong with it. One call for all, and piece by piece if that fails."""
    if all(len(piece.text) <= MAX_POLICY_CHARACTERS for piece in pieces):
        whole = _parse("\n".join(piece.text for piece in pieces))
        if not isinstance(whole, str) and len(whole) == len(pieces):
            return [whole[f"policy{index}"] for index in range(len(pieces))]
    found: list[Mapping[str, Any] | str] = []
    for piece in pieces:
        if len(piece.text) > MAX_POLICY_CHARACTERS:
            found.append(f"This policy is longer than {MAX_POLICY_CHARACTERS} characters.")
            continue
        single = _parse(piece.text)
        found.append(single if isinstance(single, str) else single.get("policy0", "This is not one policy."))
    return found


def _parse(text: str) -> Mapping[str, Any] | str:
    try:
        document = json.loads(cedarpy.policies_to_json_str(text))
    except ValueError as error:
        twice = _TWICE.search(str(error))
        if twice:
            return f"{twice[1]} stands there twice: a policy has each annotation at most once."
        return f"Cedar cannot read this policy: {error}."
    except RecursionError:
        return "This policy nests too deeply."
    found: dict[str, Any] = {**document["staticPolicies"], **document["templates"]}
    return found


def _problem(piece: Piece, document: Mapping[str, Any]) -> str:
    if any("slot" in document[part] for part in ("principal", "resource")):
        return "A template authorizes nothing: write the principal and the resource in place of the slot."
    if depth(document) > MAX_EXPRESSION_DEPTH:
        return f"This policy nests deeper than {MAX_EXPRESSION_DEPTH} levels: split it, or use a set."
    return "" if piece.text else "This policy is empty."
