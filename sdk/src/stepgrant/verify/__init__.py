"""Verifying grants at the resource.

`Verifier.connect` keeps keys and revocations fresh; `GrantInterceptor` guards a gRPC server (with `server_credentials`) and
`GrantMiddleware` an ASGI application with it; handlers read `current_call()`.
"""

from stepgrant.verify.asgi import GrantMiddleware
from stepgrant.verify.current import current_call
from stepgrant.verify.grpc_server import GrantInterceptor
from stepgrant.verify.resource import Verifier
from stepgrant.verify.server_identity import server_credentials
from stepgrant.verify.verifier import DpopHolder, Holder, TlsHolder, VerifiedCall

__all__ = [
    "DpopHolder",
    "GrantInterceptor",
    "GrantMiddleware",
    "Holder",
    "TlsHolder",
    "VerifiedCall",
    "Verifier",
    "current_call",
    "server_credentials",
]
