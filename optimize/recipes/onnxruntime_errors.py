"""One typed error for everything that onnxruntime raises."""

from collections.abc import Iterator
from contextlib import contextmanager

from optimize.errors import ProveserveError, first_line


@contextmanager
def onnxruntime_errors_as(error_type: type[ProveserveError], failure: str) -> Iterator[None]:
    """Raise `error_type`, its message beginning with `failure`, where onnxruntime fails."""
    try:
        yield
    except Exception as error:  # onnxruntime raises a dozen unrelated classes for a bad graph or input
        raise error_type(f"{failure}: {first_line(error)}") from error
