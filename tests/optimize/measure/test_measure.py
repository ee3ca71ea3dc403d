"""What the measurements do with real, tiny artefacts; figures are judged by their bounds, never by a machine's speed."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from optimize.budgets import Dim
from optimize.commands.export import SERVING_MODULES
from optimize.errors import CandidateError
from optimize.execution.isolation import Isolated
from optimize.manifest import Signature, TensorSpec
from optimize.measure import curve, golden, interleaved, latency, memory, operating, screen, workload
from optimize.measure.latency import warm_up
from optimize.runtime.session import OnnxSession
from optimize.source.model_ref import ModelRef
from optimize.source.samples import Batch
from optimize.source.split_file import store_split
from tests.optimize.model_refs import SIGNATURE, X, Y, identity, reals, stored, written


class Clock:
    """A clock that the calls move."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.calls = 0

    def __call__(self) -> float:
        return self.now_s

    def call(self, duration_ms: Callable[[int], float]) -> Callable[[], float]:
        """A call that takes as long as `duration_ms` says of its number."""

        def timed() -> float:
            self.calls += 1
            lasted_ms = duration_ms(self.calls)
            self.now_s += lasted_ms / 1e3
            return lasted_ms

        return timed


# Warm-up.


def test_warm_up_of_steady_calls_takes_its_two_seconds() -> None:
    clock = Clock()
    assert warm_up(clock.call(lambda _: 1.0), clock)
    assert 2.0 <= clock.now_s - 100 <= 2.1


def test_warm_up_of_slow_steady_calls_takes_three_blocks() -> None:
    clock = Clock()
    assert warm_up(clock.call(lambda _: 100.0), clock)
    assert clock.calls == 150


def test_warm_up_waits_until_timings_are_steady() -> None:
    clock = Clock()
    assert warm_up(clock.call(lambda n: 20.0 * 0.9 ** min((n - 1) // 50, 10)), clock)
    # Each of ten blocks is faster than the one before; the next three agree.
    assert clock.calls == 650


def test_warm_up_gives_up_after_twenty_seconds() -> None:
    clock = Clock()
    assert not warm_up(clock.call(lambda n: 1.0 if n // 50 % 2 else 1.2), clock)
    assert 20.0 <= clock.now_s - 100 <= 20.1


def test_warm_up_of_very_slow_calls_ends_within_one_call_of_its_limit() -> None:
    clock = Clock()
    assert not warm_up(clock.call(lambda _: 3000.0), clock)
    assert clock.calls == 7


@pytest.mark.parametrize(("spread", "steady"), [(1.049, True), (1.06, False)])
def test_medians_that_agree_within_five_percent_are_steady(spread: float, steady: bool) -> None:
    clock = Clock()
    assert warm_up(clock.call(lambda n: 20.0 if n // 50 % 2 else 20.0 * spread), clock) == steady


# Requests.


def test_requests_have_the_requested_size_and_real_rows(tmp_path: Path) -> None:
    x = reals(10, 4)
    split = stored(tmp_path, x[:3], x[3:])
    for rows in (1, 4, 30):
        found = workload.requests(SIGNATURE, split, {"batch": rows})
        assert len(found) == workload.DIFFERENT
        for request in found:
            assert request["x"].shape == (rows, 4)
            assert {row.tobytes() for row in request["x"]} <= {row.tobytes() for row in x}


def test_requests_differ(tmp_path: Path) -> None:
    found = workload.requests(SIGNATURE, stored(tmp_path, reals(200, 4)), {"batch": 2})
    assert len({request["x"].tobytes() for request in found}) >= 32


def test_requests_of_a_model_without_samples_are_zeros(tmp_path: Path) -> None:
    text = TensorSpec("text", "object", ("batch",))
    (request,) = workload.requests(Signature((X, text), ()), tmp_path / "none.npz", {"batch": 2}, different=1)
    assert (request["x"].shape, request["x"].any(), request["text"].tolist()) == ((2, 4), False, ["", ""])


def test_every_dynamic_axis_gets_its_size(tmp_path: Path) -> None:
    ids = TensorSpec("ids", "int64", ("batch", "n"))
    mask = TensorSpec("mask", "int64", ("batch", "n"))
    signature = Signature((ids, mask), (), {"batch": Dim(1, 2, 4), "n": Dim(1, 5, 9)})
    values = np.arange(12).reshape(3, 4)
    store_split(tmp_path / "split.npz", [Batch({"ids": values, "mask": values + 100}, None)])
    assert workload.opt_sizes(signature, 3) == {"batch": 3, "n": 5}
    for request in workload.requests(signature, tmp_path / "split.npz", {"batch": 3, "n": 5}):
        assert request["ids"].shape == (3, 5)
        np.testing.assert_array_equal(request["ids"] + 100, request["mask"])  # inputs of one row stay together


def test_opt_sizes_of_a_model_without_batch_axis() -> None:
    assert workload.opt_sizes(Signature((TensorSpec("x", "float32", ("n",)),), (), {"n": Dim(1, 5, 9)}), 8) == {"n": 5}


# Curve.


@pytest.mark.parametrize(
    ("dim", "sizes"),
    [
        (Dim(1, 1, 32), [1, 2, 4, 8, 16, 32]),
        (Dim(1, 1, 12), [1, 2, 4, 8, 12]),
        (Dim(3, 5, 9), [3, 4, 8, 9]),
        (Dim(4, 4, 4), [4]),
        (Dim(1, 1, 1), [1]),
    ],
)
def test_curve_is_measured_at_powers_of_two_and_both_ends(dim: Dim, sizes: list[int]) -> None:
    assert curve.batch_sizes(Signature((X,), (Y,), {"batch": dim})) == sizes


def test_model_whose_requests_cannot_share_a_batch_is_measured_at_its_least() -> None:
    fixed = TensorSpec("z", "float32", (3,))
    assert curve.batch_sizes(Signature((X,), (Y, fixed), {"batch": Dim(1, 1, 8)})) == [1]
    assert curve.batch_sizes(Signature((TensorSpec("x", "float32", (4,)),), (fixed,))) == [1]


def test_curve_has_a_point_for_each_shape_and_size(tmp_path: Path) -> None:
    model_ref = written(
        tmp_path,
        [helper.make_node("Identity", ["x"], ["y"])],
        inputs={"x": ["batch", "n"]},
        outputs={"y": ["batch", "n"]},
    )
    specs = [TensorSpec(name, "float32", ("batch", "n")) for name in ("x", "y")]
    signature = Signature((specs[0],), (specs[1],), {"batch": Dim(1, 1, 2), "n": Dim(1, 3, 3)})
    points = curve.measure(model_ref, signature, stored(tmp_path, reals(9, 3)))
    assert [(point.shape, point.batch) for point in points] == [
        ({"n": 1}, 1), ({"n": 1}, 2), ({"n": 3}, 1), ({"n": 3}, 2)
    ]  # fmt: skip
    assert all(0 < point.p50_ms <= point.p95_ms and point.n >= 20 for point in points)


# Screen.


def screened(model_ref: ModelRef, signature: Signature, split: Path, batch: int = 2) -> screen.Screen:
    return screen.measure(model_ref, signature, split, batch)


def test_sane_artefact_passes_the_screen(tmp_path: Path) -> None:
    found = screened(identity(tmp_path), SIGNATURE, stored(tmp_path, reals(9, 4)))
    assert (found.calls, found.median_ms > 0) == (20, True)


@pytest.mark.parametrize("node", [("Log", "NaN"), ("Reciprocal", "infinity")])
def test_nan_and_infinity_fail_the_screen(tmp_path: Path, node: tuple[str, str]) -> None:
    model_ref = written(tmp_path, [helper.make_node(node[0], ["x"], ["y"])])
    split = stored(tmp_path, -np.zeros((4, 4), np.float32) - (1 if node[0] == "Log" else 0))
    with pytest.raises(CandidateError, match="answers NaN or infinity in output 'y' on real samples"):
        screened(model_ref, SIGNATURE, split)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (TensorSpec("y", "float32", ("batch", 5)), r"output 'y' is float32\[2, 4\]; wanted float32\['batch', 5\]"),
        (TensorSpec("y", "float32", ("batch",)), r"output 'y' is float32\[2, 4\]; wanted float32\['batch'\]"),
        (TensorSpec("y", "float32", ("n", "batch")), r"output 'y' is float32\[2, 4\]; wanted float32\['n', 'batch'\]"),
        (TensorSpec("y", "float16", ("batch", 4)), r"output 'y' is float32\[2, 4\]; wanted float16"),
        (TensorSpec("z", "float32", ("batch", 4)), "output 'z' is nothing; wanted float32"),
    ],
)
def test_other_shape_dtype_or_name_fails_the_screen(tmp_path: Path, spec: TensorSpec, message: str) -> None:
    with pytest.raises(CandidateError, match=message):
        screened(identity(tmp_path), Signature((X,), (spec,), SIGNATURE.dims), stored(tmp_path, reals(9, 4)))


def test_failing_run_fails_the_screen(tmp_path: Path) -> None:
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [4, 3])
    model_ref = written(tmp_path, [helper.make_node("Reshape", ["x", "shape"], ["y"])], weights=[shape])
    with pytest.raises(CandidateError, match=r"fails on real samples: .*Reshape"):
        screened(model_ref, SIGNATURE, stored(tmp_path, reals(9, 4)))


# Latency, comparison, operating points.


def test_latency_run_has_the_requested_calls(tmp_path: Path) -> None:
    start = time.monotonic()
    run = latency.measure(identity(tmp_path), SIGNATURE, stored(tmp_path, reals(99, 4)), 1, 320)
    assert len(run.latencies_ms) == 320
    assert min(run.latencies_ms) > 0
    assert sum(run.latencies_ms) / 1e3 < time.monotonic() - start - latency.WARM_UP_MIN_S


def test_duel_tells_the_slower_of_two(tmp_path: Path) -> None:
    slow = written(
        tmp_path,
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("MatMul", ["h", "v"], ["y"]),
        ],
        weights=[
            helper.make_tensor("w", TensorProto.FLOAT, [4, 100_000], np.ones(400_000)),
            helper.make_tensor("v", TensorProto.FLOAT, [100_000, 4], np.ones(400_000)),
        ],
    )
    (tmp_path / "quick").mkdir()
    found = interleaved.time_interleaved(
        identity(tmp_path / "quick"), slow, SIGNATURE, stored(tmp_path, reals(64, 4)), 1
    )
    assert (found.a_rows, found.b_rows, len(found.a_ms), len(found.b_ms)) == (1, 1, 20, 20)
    assert all(5 <= len(block) <= 50 for block in found.a_ms + found.b_ms)
    assert np.median(found.a_rows_per_s()) > 2 * np.median(found.b_rows_per_s())


def test_duel_finds_each_sides_best_batch(tmp_path: Path) -> None:
    model_ref = identity(tmp_path)
    found = interleaved.time_interleaved(model_ref, model_ref, SIGNATURE, stored(tmp_path, reals(64, 4)), None)
    # A call costs the same whatever its rows, so more rows a call are more rows a second.
    assert min(found.a_rows, found.b_rows) >= 4


@pytest.mark.parametrize(
    ("cores", "own", "layouts"),
    [
        (1, 1, [(1, 1)]),
        (2, 1, [(1, 2), (2, 1)]),
        (6, 1, [(1, 6), (2, 3), (3, 2), (6, 1)]),
        (6, 4, [(1, 6), (2, 3), (3, 2), (4, 1), (6, 1)]),
        (2, 4, [(1, 2), (2, 1), (4, 1)]),
    ],
)
def test_layouts_fill_the_cores_and_include_the_threads_of_the_latency_measurement(
    cores: int, own: int, layouts: list[tuple[int, int]]
) -> None:
    assert operating.layouts(cores, own) == layouts


def test_operating_points_cover_layouts_and_batches_and_the_best_is_chosen(tmp_path: Path) -> None:
    signature = Signature((X,), (Y,), {"batch": Dim(1, 1, 2)})
    points = operating.measure(identity(tmp_path), signature, stored(tmp_path, reals(9, 4)), 2)
    assert [(point.threads, point.instances, point.batch) for point in points] == [
        (1, 2, 1), (1, 2, 2), (2, 1, 1), (2, 1, 2)
    ]  # fmt: skip
    assert operating.bulk(points).rows_per_s == max(point.rows_per_s for point in points)
    chosen = operating.online(points, threads=2)
    assert chosen.threads == 2
    assert chosen.rows_per_s == max(point.rows_per_s for point in points if point.threads == 2)


# Golden answers and memory.


def test_golden_answers_are_those_of_the_session(tmp_path: Path) -> None:
    x = reals(64, 4)
    model_ref = identity(tmp_path)
    recorded = golden.record(model_ref, SIGNATURE, stored(tmp_path, x), tmp_path)
    assert recorded.count == 8
    assert recorded.atol == pytest.approx(1e-3 * np.abs(x[:8]).max())
    with np.load(tmp_path / golden.GOLDEN) as archive, OnnxSession(model_ref.path, model_ref.options) as session:
        assert len(archive.files) == 16
        for index in range(8):
            request = {"x": archive[f"in/{index}/x"]}
            assert request["x"].shape == (1, 4)
            np.testing.assert_array_equal(archive[f"out/{index}/y"], session.run(request)["y"])


def test_infinite_answer_loosens_no_tolerance(tmp_path: Path) -> None:
    x = np.abs(reals(64, 4)) + 1
    x[3] = 0
    model_ref = written(tmp_path, [helper.make_node("Log", ["x"], ["y"])])
    recorded = golden.record(model_ref, SIGNATURE, stored(tmp_path, x), tmp_path)
    assert recorded.atol == pytest.approx(1e-3 * np.log(np.delete(x[:8], 3, axis=0)).max())


def test_memory_tells_imports_load_and_peak_apart(tmp_path: Path) -> None:
    """Weights of 40 MB count when they are loaded, an inner value of 80 MB when the model runs."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Exp", ["h"], ["e"]),
        helper.make_node("ReduceMean", ["e", "axes"], ["m"], keepdims=1),
        helper.make_node("Add", ["x", "m"], ["y"]),
    ]
    weights = [
        helper.make_tensor(
            "w", TensorProto.FLOAT, [4, 2_500_000], np.zeros(10_000_000, np.float32).tobytes(), raw=True
        ),
        helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
    ]
    model_ref = written(tmp_path, nodes, weights=weights)
    peak = Isolated()(memory.measure, model_ref, SIGNATURE, stored(tmp_path, reals(8, 4)), SERVING_MODULES)
    assert 50 < peak.imports_mb < 400
    assert 40 <= peak.load_mb - peak.imports_mb < 200
    assert 80 <= peak.peak_mb - peak.load_mb < 300


def test_inputs_of_the_largest_shape_hardly_count_as_memory(tmp_path: Path) -> None:
    """64 of them, as latency keeps them, would be 2 GB."""
    wide = [TensorSpec(name, "float32", ("batch", 1_000_000)) for name in ("x", "y")]
    signature = Signature((wide[0],), (wide[1],), {"batch": Dim(1, 1, 8)})
    model_ref = written(
        tmp_path,
        [helper.make_node("Identity", ["x"], ["y"])],
        inputs={"x": ["batch", 1_000_000]},
        outputs={"y": ["batch", 1_000_000]},
    )
    split = stored(tmp_path, np.zeros((2, 1_000_000), np.float32))
    peak = Isolated()(memory.measure, model_ref, signature, split, SERVING_MODULES)
    assert peak.peak_mb - peak.imports_mb < 400
