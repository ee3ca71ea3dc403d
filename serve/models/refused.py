"""The error that refuses a call."""

import grpc


class Refused(Exception):  # noqa: N818 - the server works, but refuses the call
    """A call is refused for a reason that its caller may know."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
