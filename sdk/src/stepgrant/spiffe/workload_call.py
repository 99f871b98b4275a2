"""Calls of the SPIFFE Workload API. The stub is py-spiffe's; its parsers are not used, since one thing that they do not like
in a message, such as a partner's empty bundle, would cost everything else in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

HEADER: Final = (("workload.spiffe.io", "true"),)
"""Demanded of each call (SPIFFE Workload Endpoint, section 4)."""


@contextmanager
def workload_stub(socket: str) -> Iterator[Any]:
    """A stub over a connection of its own to the Workload API at `socket`, `unix:/path`."""
    import grpc
    from spiffe._proto import workload_pb2_grpc

    # A subchannel that is shared would be shared with streams that were cancelled, and with what became of them.
    with grpc.insecure_channel(socket, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)  # type: ignore[no-untyped-call]  # generated so


def said(error: Any) -> str:
    """What the Workload API said, of a `grpc.RpcError`."""
    return f"{error.code().name}: {error.details()}"
