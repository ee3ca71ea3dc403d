"""What one caller, or one connection, may ask of a server."""

BODY_TIMEOUT_S = 30.0
"""How long the message of a call may take to arrive, whatever the deadline of the caller."""

MAX_MESSAGE_BYTES = 64 << 20
MAX_METADATA_BYTES = 16 << 10
MAX_STREAMS = 10_000
MAX_PENDING = 100_000

SERVER_LIMITS = (
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),  # between the two, gRPC would refuse at random
    ("grpc.max_concurrent_streams", MAX_STREAMS),  # per connection; more calls wait in the client
    # By default gRPC cancels calls at random once a thousand wait for the loop; the batchers refuse them with a reason.
    ("grpc.server.max_pending_requests", MAX_PENDING),
    ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
    ("grpc.keepalive_time_ms", 60_000),  # finds peers that are gone, and ends their streams
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    (
        "grpc.http2.min_ping_interval_without_data_ms",
        10_000,
    ),  # a client that pings more often is cut off, after two strikes
    ("grpc.http2.max_ping_strikes", 2),
)
"""Options of a server, but for the size of its messages, which Ray Serve takes from its environment."""
