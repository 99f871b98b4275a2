"""Ten agents with fifty steps each beside one that floods: whole programs, and what they were told against the ledger."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory

import fairness
import pytest
from effort import QUICK


@pytest.mark.slow
async def test_nothing_is_lost_and_nothing_granted_twice_under_a_flood():
    """INV-03: each client's book and the ledger say the same, and only who floods is put off."""
    effort = dataclasses.replace(QUICK, fair_turns=1, fair_seconds=3.0)
    # Socket paths are short, so not under pytest's own directory.
    with TemporaryDirectory(prefix="sg") as directory:
        found = await fairness.measure(Path(directory) / "f", effort)

    assert found.counts["fair_steps"] > len(fairness.AGENTS) * 50
    assert found.counts["flood_denied"] > 0
