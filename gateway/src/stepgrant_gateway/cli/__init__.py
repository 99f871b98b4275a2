"""The `stepgrant` command. Importing this brings nothing with it: starting quickly is part of being usable."""

from __future__ import annotations


def main() -> None:
    """Runs the command line."""
    from stepgrant_gateway.cli.program import program

    program()
