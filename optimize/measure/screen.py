"""A first look at a candidate: whether it opens, answers sanely, and comes anywhere near its limits."""

import time
from itertools import cycle
from pathlib import Path

import numpy as np
from msgspec import Struct

from optimize.errors import CandidateError
from optimize.manifest import Signature
from optimize.measure.workload import opt_sizes, requests
from optimize.runtime.session import first_line
from optimize.subject import Subject, opened

SANITY_CALLS = 8
SCREEN_CALLS = 20


class Screen(Struct, frozen=True):
    """Median latency of 20 calls after 8 that had to answer sanely."""

    median_ms: float
    calls: int


def measure(subject: Subject, signature: Signature, split: Path, batch: int) -> Screen:
    """Open a subject, check eight answers, and time twenty calls.

    Raises:
        CandidateError: It fails, answers NaN or infinity, or answers in another shape or dtype than the model does.
    """
    inputs = requests(signature, split, opt_sizes(signature, batch))
    outputs = {spec.name: spec for spec in signature.outputs}
    with opened(subject) as session:
        for arrays in inputs[:SANITY_CALLS]:
            try:
                answers = session.run(arrays)
            except Exception as error:
                raise CandidateError(f"fails on real samples: {first_line(error)}") from error
            for name, spec in outputs.items():
                value = answers.get(name)
                if (
                    value is None
                    or value.ndim != len(spec.shape)
                    or (value.dtype.kind not in "OUS" and value.dtype != spec.dtype)
                ):
                    found = "nothing" if value is None else f"{value.dtype}{list(value.shape)}"
                    raise CandidateError(f"output {name!r} is {found}; wanted {spec.dtype}{list(spec.shape)}")
                if value.dtype.kind == "f" and not np.isfinite(value).all():
                    raise CandidateError(f"answers NaN or infinity in output {name!r} on real samples")
        rotation, latencies = cycle(inputs), []
        for _ in range(SCREEN_CALLS):
            arrays = next(rotation)
            start = time.perf_counter_ns()
            session.run(arrays)
            latencies.append((time.perf_counter_ns() - start) / 1e6)
    return Screen(float(np.median(latencies)), SCREEN_CALLS)
