"""Generated calls, for tests of their verdicts and reports."""

from typing import Any

import numpy as np
import numpy.typing as npt

from loadtest.results import OK, Calls

Numbers = npt.NDArray[np.floating[Any]]


def calls(
    count: int,
    rate_qps: float = 100.0,
    latency_ms: float | Numbers = 10.0,
    late_ms: float | Numbers = 0.0,
    code: int | npt.NDArray[np.integer[Any]] = OK,
) -> Calls:
    """`count` calls at a constant rate, each answered by version 3 unless its code says otherwise."""
    scheduled_s = np.arange(count) / rate_qps
    codes = np.broadcast_to(np.asarray(code, np.int16), count).copy()
    return Calls(
        scheduled_s=scheduled_s,
        sent_s=scheduled_s + np.broadcast_to(np.asarray(late_ms, float), count) / 1e3,
        latency_ms=np.broadcast_to(np.asarray(latency_ms, float), count).copy(),
        code=codes,
        version=np.where(codes == OK, 0, -1).astype(np.int16),
        versions=np.array(["3"]),
        said=np.array([["UNAVAILABLE", "one | two\nthree"]]),
    )
