"""Keys of gRPC metadata that a service and its callers agree on."""

AUTHORIZATION = "authorization"
"""The token: `authorization: Bearer TOKEN`."""

PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""Trailing metadata with which a server says when to retry (gRFC A6); below 0, or not a number, means never."""

TRACEPARENT_KEY = "traceparent"
"""W3C's Trace Context: the place of the call in a trace."""
