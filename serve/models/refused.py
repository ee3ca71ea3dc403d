"""The error by which a call is turned down."""

import grpc


class Refused(Exception):  # noqa: N818 - the server works; the call is turned down
    """A call is turned down for a reason that its caller may read."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
