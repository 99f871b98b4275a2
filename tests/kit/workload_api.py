"""A Workload API at a real socket that says one thing: an update, or a status."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe._proto import workload_pb2, workload_pb2_grpc

from stepgrant.spiffe.bundles import X509Bundle
from tests.kit.ca import IssuedSvid


def update(svid: IssuedSvid, bundle: X509Bundle) -> workload_pb2.X509SVIDResponse:
    """The whole state of a workload: one SVID, and the bundle that comes with it."""
    entry = workload_pb2.X509SVID(
        spiffe_id="spiffe://whatever/this-is-not-believed",
        x509_svid=b"".join(svid.chain_der),
        x509_svid_key=svid.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        bundle=b"".join(bundle.authorities),
    )
    return workload_pb2.X509SVIDResponse(svids=[entry])


class _Says(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    def __init__(self, said: workload_pb2.X509SVIDResponse | grpc.StatusCode) -> None:
        self._said = said

    def FetchX509SVID(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802 - the protocol's
        ended = threading.Event()
        context.add_callback(ended.set)
        if isinstance(self._said, grpc.StatusCode):
            context.abort(self._said, "scripted")
        yield self._said
        ended.wait(30)


@contextmanager
def saying(said: workload_pb2.X509SVIDResponse | grpc.StatusCode) -> Iterator[str]:
    """The address of a Workload API that says this to everybody."""
    with tempfile.TemporaryDirectory(prefix="sg") as folder, ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(_Says(said), server)
        address = f"unix:{Path(folder) / 'api.sock'}"
        server.add_insecure_port(address)
        server.start()
        yield address
        server.stop(None).wait()
