"""The call at hand: pure mappings from a request to (tool, arguments), the very same on both sides (design 4).

Nothing that a caller says *about* its call takes part, and what is not registered is refused.
"""

from stepgrant.calls.call import Call
from stepgrant.calls.grpc import GrpcCalls
from stepgrant.calls.http import HttpCalls, HttpRoute

__all__ = ["Call", "GrpcCalls", "HttpCalls", "HttpRoute"]
