"""Whole agent programs, each a process of its own, against a whole gateway: section 8 of the design as it is written."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest

from tests.kit.running import ISSUER, running_gateway

ASYNCHRONOUS = """
import asyncio
from decimal import Decimal
import stepgrant

class Order:
    paid = Decimal("98.70")

@stepgrant.tool("orders.get")
async def get_order(order_id: str) -> Order:
    return Order()

@stepgrant.tool("orders.refund")                  # declare, call, report; Denied is raised before the body runs
async def refund(order_id: str, amount: Decimal) -> str:
    raise AssertionError("the body ran")

async def main() -> None:
    async with stepgrant.task("Refund", order_id="ord_00000042", customer="jo@x.org"):
        order = await get_order(order_id="ord_00000042")
        try:
            await refund(order_id="ord_00000042", amount=order.paid)
        except stepgrant.Denied as denied:
            print(denied.denial.code.value)

asyncio.run(main())
"""

BLOCKING = """
from decimal import Decimal
from stepgrant import Denied, blocking

@blocking.tool("orders.get")
def get_order(order_id):
    return {"paid": "98.70"}

@blocking.tool("orders.refund")
def refund(order_id, amount):
    raise AssertionError("the body ran")

with blocking.task("Refund", order_id="ord_00000042", customer="jo@x.org"):
    order = get_order(order_id="ord_00000042")
    try:
        refund(order_id="ord_00000042", amount=Decimal(order["paid"]))
    except Denied as denied:
        print(denied.denial.code.value)
"""


async def run(program: str, **variables: str) -> tuple[int | None, str, str]:
    """Exit status, output and errors of a Python program."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("STEPGRANT_", "SPIFFE_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        env={**environment, **variables, "GRPC_VERBOSITY": "NONE"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, output.decode(), errors.decode()


@pytest.mark.parametrize("program", [ASYNCHRONOUS, BLOCKING], ids=["asynchronous", "blocking"])
async def test_the_program_finds_its_gateway_in_the_environment_and_leaves_quietly(program):
    """Nobody has witnessed `orders.get`, so policy denies the refund: by the gateway, and before the body runs (INV-12)."""
    async with running_gateway() as running:
        status, output, errors = await run(
            program,
            STEPGRANT_GATEWAY=running.address.target,
            STEPGRANT_GATEWAY_ID=ISSUER,
            SPIFFE_ENDPOINT_SOCKET=running.api.socket_for("agent/support"),
        )
    assert (status, output, errors) == (0, "no_permit\n", "")


async def test_a_program_without_an_environment_is_told_what_to_set():
    status, _, errors = await run(ASYNCHRONOUS)
    assert status == 1
    assert "STEPGRANT_GATEWAY is not set: set it to host:port of the gateway" in errors
