"""The first message of a stream: what is to be opened, and the proof of the instance's key."""

from __future__ import annotations

from dataclasses import dataclass

from stepgrant.dpop import open_message, verify_open_proof
from stepgrant.errors import InvalidInputError, ProtocolError
from stepgrant.grant import PROTOCOL_REVISION
from stepgrant.subject import MAX_SUBJECT_TOKEN
from stepgrant.v1 import agent_pb2
from stepgrant_gateway.core.boundary import OpenTask
from stepgrant_gateway.core.principal import Peer
from stepgrant_gateway.rpc import wire
from stepgrant_gateway.rpc.limits import MAX_INSTANCE_KEY_BYTES, MAX_TEXT, SIGNATURE_BYTES
from stepgrant_gateway.rpc.status import UnauthenticatedError


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who speaks for the gateway: its SPIFFE ID, its instance, and the bounds it tells agents."""

    gateway_id: str
    instance_id: str
    limits: agent_pb2.Limits


def opening_of(message: agent_pb2.Open, peer: Peer, speaker: Speaker, nonce: bytes) -> OpenTask:
    """What is asked, with the instance key proven for this stream, this gateway and this certificate (design 3).

    Raises:
        ProtocolError: another revision, or a field out of its bounds.
        ArgumentsInvalidError: the parameters are not strict JSON.
        UnauthenticatedError: the instance key is not proven.
    """
    if message.revision != PROTOCOL_REVISION:
        raise ProtocolError(
            f"the agent speaks revision {message.revision}, this gateway {PROTOCOL_REVISION}: use matching versions"
        )
    if len(message.instance_key) > MAX_INSTANCE_KEY_BYTES or len(message.signature) != SIGNATURE_BYTES:
        raise ProtocolError("Open.instance_key or Open.signature is not of its size")
    task_type = wire.bounded(message.task_type, 128, "Open.task_type", least=1)
    purpose = wire.bounded(message.purpose, MAX_TEXT, "Open.purpose")
    signed = open_message(speaker.gateway_id, nonce, peer.credential_sha256)
    try:
        thumbprint = verify_open_proof(message.instance_key, message.signature, signed)
    except InvalidInputError as error:
        raise UnauthenticatedError(f"Open does not prove the instance key: {error}") from error
    token, ticket = wire.resume_token_of(message), wire.assignment_of(message)
    subject_token = wire.bounded(message.subject_token, MAX_SUBJECT_TOKEN, "Open.subject_token")
    handed_on = wire.hand_off_ticket_of(message)
    parameters = wire.parameters_of(message)
    return OpenTask(task_type, parameters, purpose, thumbprint, token, subject_token, ticket, handed_on)
