"""Cedar text cut into its policies, because Cedar itself gives no positions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from stepgrant_gateway.core.errors import Finding

_TOKENS: Final = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|;|"', re.DOTALL)
"""Strings and comments hide a `;`; a quote that begins no string is one that is never closed."""
_BLANK: Final = re.compile(r"(?:\s|//[^\n]*(?:\n|$))*")


@dataclass(frozen=True, slots=True)
class Piece:
    """The text of one policy, its closing `;` included. `line` counts from 1: where its first annotation or word is."""

    file: str
    line: int
    text: str


def split(file: str, text: str) -> tuple[tuple[Piece, ...], tuple[Finding, ...]]:
    """The policies of one file in order, and what is wrong with the text after the last whole one."""
    pieces: list[Piece] = []
    start, line, counted = 0, 1, 0

    def begin() -> int:
        """Moves to the first character of the policy at hand and answers with its line."""
        nonlocal start, line, counted
        blank = _BLANK.match(text, start)
        start = blank.end() if blank else start
        line += text.count("\n", counted, start)
        counted = start
        return line

    for token in _TOKENS.finditer(text):
        first = token.group()
        if first == '"':
            at = begin()
            return tuple(pieces), (Finding(file, at, "", "A string in this policy is never closed."),)
        if first == ";":
            at = begin()
            pieces.append(Piece(file, at, text[start : token.end()]))
            start = token.end()
    at = begin()
    if start < len(text):
        return tuple(pieces), (Finding(file, at, "", "This policy does not end with `;`."),)
    return tuple(pieces), ()
