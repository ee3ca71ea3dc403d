"""Keys of gRPC metadata that a service and its callers agree on."""

AUTHORIZATION = "authorization"
"""The token: `authorization: Bearer TOKEN`."""

PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""By trailing metadata of this name a server says when to retry (gRFC A6); below 0, or no number, it says never."""

TRACEPARENT_KEY = "traceparent"
"""W3C's Trace Context: the place of the call in a trace."""
