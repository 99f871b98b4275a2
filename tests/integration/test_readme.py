"""The README's example does what the README says."""

from __future__ import annotations

import re
from pathlib import Path

from tests.integration.test_agent_programs import run
from tests.kit.running import ISSUER, running_gateway

README = Path(__file__).parents[2] / "README.md"


async def test_the_example_runs_as_written_and_prints_what_stands_there() -> None:
    text = README.read_text(encoding="utf-8").partition("<!-- example -->")[2]
    program, printed = re.findall(r"```(?:python)?\n(.*?)```", text, re.DOTALL)[:2]
    async with running_gateway() as running:
        status, output, errors = await run(
            program,
            STEPGRANT_GATEWAY=running.address.target,
            STEPGRANT_GATEWAY_ID=ISSUER,
            SPIFFE_ENDPOINT_SOCKET=running.api.socket_for("agent/support"),
        )
    first, *rest = printed.splitlines()
    said = re.sub(r"Decision \w+\.", "", " ".join(rest)).strip()
    assert (status, output) == (1, first + "\n")
    assert re.sub(r"Decision \w+\.", "", errors.splitlines()[-1]).strip() == said


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) < 150
