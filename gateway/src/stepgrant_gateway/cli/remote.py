"""The way from the command line to a gateway's Operator service: as the workload that SPIFFE_ENDPOINT_SOCKET says we are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar, Final

from stepgrant.errors import GatewayUnavailableError, MisuseError
from stepgrant_gateway.cli.exits import CODES
from stepgrant_gateway.core.errors import GatewayError

if TYPE_CHECKING:
    import grpc

    from stepgrant.v1.operator_pb2_grpc import OperatorStub

TIMEOUT: Final = 30.0
"""Seconds for one call: a reload runs golden cases."""


class RefusedByGatewayError(GatewayError):
    """The gateway answered with an error; `code` is the gateway's own."""

    code: ClassVar[str] = "gateway_error"

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code  # type: ignore[misc]  # the code of the other side stands for ours


@contextmanager
def operator(environment: Mapping[str, str] = os.environ) -> Iterator[OperatorStub]:
    """The Operator service of the gateway at STEPGRANT_GATEWAY, once that proved to be STEPGRANT_GATEWAY_ID.

    Raises:
        MisuseError: a variable is missing or not what it must be.
        IdentityUnavailableError, GatewayUnavailableError: we have no identity; the gateway does not answer as itself.
        RefusedByGatewayError: from within the block, when a call is refused.
    """
    import grpc

    from stepgrant.link import parse_address
    from stepgrant.spiffe.ids import parse_spiffe_id
    from stepgrant.spiffe.probe import grpc_channel_credentials, probe_server
    from stepgrant.spiffe.workload import WorkloadApiSource
    from stepgrant.v1.operator_pb2_grpc import OperatorStub

    address = parse_address(_variable(environment, "STEPGRANT_GATEWAY"), "STEPGRANT_GATEWAY")
    gateway_id = parse_spiffe_id(_variable(environment, "STEPGRANT_GATEWAY_ID"), what="STEPGRANT_GATEWAY_ID")
    source = WorkloadApiSource(_variable(environment, "SPIFFE_ENDPOINT_SOCKET"))
    try:
        snapshot = source.current()
        pinned = probe_server(address.host, address.port, gateway_id, snapshot, datetime.now(UTC))
        credentials, options = grpc_channel_credentials(snapshot, pinned)
        with grpc.secure_channel(address.target, credentials, options) as channel:
            yield OperatorStub(channel)
    except grpc.RpcError as error:
        raise _refused(error) from error
    finally:
        source.close()


def _variable(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name)
    if not value:
        raise MisuseError(
            f"{name} is not set; `stepgrant dev run operator/you -- stepgrant ...` sets it for trying things out"
        )
    return value


def _refused(error: grpc.RpcError) -> GatewayError | GatewayUnavailableError:
    details = str(getattr(error, "details", lambda: "")() or "the call failed")
    trailing: Iterable[tuple[str, str | bytes]] = getattr(error, "trailing_metadata", tuple)() or ()
    code = next((str(value) for key, value in trailing if key == "stepgrant-error"), "")
    if code in CODES:
        return RefusedByGatewayError(details, code)
    return GatewayUnavailableError(f"the gateway does not answer: {details}")
