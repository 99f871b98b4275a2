"""One agent's stream, spoken message by message, for tests of what a gateway makes of each."""

from __future__ import annotations

import asyncio
import hashlib

import grpc
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stepgrant.grant import OPEN_TAG
from stepgrant.v1 import agent_pb2, agent_pb2_grpc
from tests.kit.face import AGENT, GATEWAY_ID, STEP

WAIT = 5


class Agent:
    """One stream as an agent would hold it, message by message."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.call = agent_pb2_grpc.AgentGatewayStub(channel).PerformTask()
        self.number = 0

    async def read(self) -> agent_pb2.GatewayMessage:
        message = await asyncio.wait_for(self.call.read(), WAIT)
        assert message is not grpc.aio.EOF, (await self.call.code(), await self.call.details())
        return message

    async def at_end(self) -> bool:
        return await asyncio.wait_for(self.call.read(), WAIT) is grpc.aio.EOF

    async def send(self, **member) -> None:
        self.number += 1
        await self.call.write(agent_pb2.AgentMessage(request=self.number, **member))

    async def status(self) -> grpc.StatusCode:
        async def drained() -> grpc.StatusCode:
            try:
                while await self.call.read() is not grpc.aio.EOF:
                    pass
            except grpc.aio.AioRpcError as error:
                return error.code()
            return await self.call.code()

        return await asyncio.wait_for(drained(), WAIT)

    async def open(self, **changes) -> agent_pb2.GatewayMessage:
        challenge = (await self.read()).challenge
        await self.send(open=opening(challenge.nonce, **changes))
        return await self.read()


def opening(nonce: bytes, *, certificate: bytes = AGENT.credential_sha256, gateway: str = GATEWAY_ID, **changes):
    key = ec.generate_private_key(ec.SECP256R1())
    message = OPEN_TAG + hashlib.sha256(gateway.encode()).digest() + nonce + certificate
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    fields = {
        "revision": 1,
        "task_type": "Refund",
        "parameters_json": '{"order_id":"ord_00000042"}',
        "purpose": "a refund",
        "instance_key": key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "signature": r.to_bytes(32, "big") + s.to_bytes(32, "big"),
    }
    return agent_pb2.Open(**(fields | changes))


def declaring(step_id: str = STEP, **changes) -> agent_pb2.Declare:
    fields = {"step_id": step_id, "tool": "orders.get", "arguments_json": '{"order_id":"ord_00000042"}'}
    return agent_pb2.Declare(**(fields | changes))
