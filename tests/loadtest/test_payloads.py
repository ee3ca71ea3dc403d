import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from loadtest import payloads
from optimize.budgets import Dim, InputSpec, LatencyBudget, ModelBudgets, ThroughputBudget
from optimize.errors import UserError
from protos import open_inference_pb2 as pb
from serve.client import codec


def metadata(**inputs):
    tensor = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        inputs=[tensor(name=name, datatype=datatype, shape=shape) for name, (datatype, shape) in inputs.items()]
    )


def model(rows=1, inputs=None, **dims):
    return ModelBudgets(
        source="m.onnx",
        latency=LatencyBudget(batch=rows),
        inputs=inputs or {},
        dims=dims,
        throughput=ThroughputBudget(qps=10.0),
    )


def rng():
    return np.random.default_rng(5)


IMAGE = {"image": ("FP32", [-1, 1, 8, 8])}


class TestShapes:
    def test_a_request_has_the_latency_budgets_rows_and_the_opt_size_of_each_dimension(self):
        (found,) = payloads.inputs_of(metadata(ids=("INT64", [-1, -1])), model(4, sequence=Dim(4, 32, 128)))
        assert found == payloads.Input("ids", np.dtype("int64"), (4, 32), 0)

    def test_a_declared_input_names_its_axes(self):
        declared = {"x": InputSpec("float32", ("time", "batch", "width"))}
        (found,) = payloads.inputs_of(
            metadata(x=("FP32", [-1, -1, -1])),
            model(2, declared, time=Dim(1, 5, 9), width=Dim(1, 7, 9), batch=Dim(1, 1, 8)),
        )
        assert found == payloads.Input("x", np.dtype("float32"), (5, 2, 7), 1)

    def test_fixed_shapes_and_scalars_are_taken_as_they_are(self):
        found = payloads.inputs_of(metadata(x=("FP16", [3, 4]), temperature=("FP64", [])), model())
        assert [(item.shape, item.batch_axis) for item in found] == [((3, 4), None), ((), None)]

    def test_an_open_axis_of_unknown_size_is_refused(self):
        with pytest.raises(UserError, match=r"input 'x': the service leaves axis 1 open.*models\.NAME\.inputs\.x"):
            payloads.inputs_of(metadata(x=("FP32", [-1, -1])), model())

    def test_a_datatype_that_numpy_lacks_is_refused(self):
        with pytest.raises(UserError, match="input 'x' has datatype BF16; wanted one of BOOL"):
            payloads.inputs_of(metadata(x=("BF16", [-1])), model())


class TestMade:
    @pytest.mark.parametrize("datatype", [name for name in codec.DATATYPES if name != "BF16"])
    def test_every_datatype_is_made_and_understood_by_the_codec(self, datatype):
        inputs = payloads.inputs_of(metadata(x=(datatype, [-1, 3])), model(2))
        requests = payloads.make(inputs, rng())
        (sent,) = payloads.encode("m", requests[:1])
        read = codec.read_inputs(pb.ModelInferRequest.FromString(sent), {"x": datatype})
        assert read["x"].shape == (2, 3)
        assert np.array_equal(read["x"], requests[0]["x"])

    def test_integers_are_valid_indices_of_any_table(self):
        inputs = payloads.inputs_of(metadata(ids=("INT64", [-1, 32])), model())
        assert {int(value) for request in payloads.make(inputs, rng()) for value in request["ids"].ravel()} == {0, 1}

    def test_requests_differ_and_a_seed_gives_the_same_ones(self):
        inputs = payloads.inputs_of(metadata(**IMAGE), model())
        first = payloads.encode("m", payloads.make(inputs, rng()))
        assert len(set(first)) == payloads.COUNT >= payloads.MIN_DIFFERENT
        assert first == payloads.encode("m", payloads.make(inputs, rng()))


class TestRead:
    def test_npz_rows_are_stacked_along_the_batch(self, tmp_path):
        rows = np.arange(40 * 64, dtype=np.float32).reshape(40, 1, 8, 8)
        np.savez(tmp_path / "rows.npz", image=rows, label=np.arange(40))
        requests = payloads.read(tmp_path / "rows.npz", payloads.inputs_of(metadata(**IMAGE), model(4)), rng())
        assert len(requests) == payloads.COUNT
        sent = np.concatenate([request["image"] for request in requests])
        assert sent.shape == (4 * payloads.COUNT, 1, 8, 8)
        assert {row.tobytes() for row in sent} == {row.tobytes() for row in rows}

    def test_rows_of_several_inputs_stay_together(self, tmp_path):
        ids = np.arange(50).repeat(3).reshape(50, 3)
        np.savez(tmp_path / "rows.npz", ids=ids, mask=ids * 2)
        inputs = payloads.inputs_of(metadata(ids=("INT64", [-1, 3]), mask=("INT64", [-1, 3])), model(2))
        for request in payloads.read(tmp_path / "rows.npz", inputs, rng()):
            assert np.array_equal(request["ids"] * 2, request["mask"])

    def test_parquet_holds_tensors_nested_or_flat_and_text(self, tmp_path):
        table = pa.table(
            {
                "flat": [[float(i)] * 4 for i in range(40)],
                "nested": [[[i, i + 1]] for i in range(40)],
                "text": [f"row {i}" for i in range(40)],
                "other": [None] * 40,
            }
        )
        pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
        inputs = payloads.inputs_of(
            metadata(flat=("FP32", [-1, 2, 2]), nested=("INT32", [-1, 1, 2]), text=("BYTES", [-1])), model(2)
        )
        first = payloads.read(tmp_path / "rows.parquet", inputs, rng())[0]
        assert {name: (array.dtype.name, array.shape) for name, array in first.items()} == {
            "flat": ("float32", (2, 2, 2)),
            "nested": ("int32", (2, 1, 2)),
            "text": ("object", (2,)),
        }
        assert first["text"][0] == f"row {first['flat'][0, 0, 0]:.0f}"

    def test_rows_of_different_length_are_sent_one_at_a_time(self, tmp_path):
        pyarrow.parquet.write_table(
            pa.table({"ids": [list(range(1 + i % 5)) for i in range(40)]}), tmp_path / "rows.parquet"
        )
        described = metadata(ids=("INT64", [-1, -1]))
        alone = payloads.inputs_of(described, model(1, sequence=Dim(1, 3, 9)))
        shapes = {request["ids"].shape for request in payloads.read(tmp_path / "rows.parquet", alone, rng())}
        assert shapes == {(1, size) for size in range(1, 6)}
        with pytest.raises(UserError, match=r"rows of 'ids' differ in shape.*latency\.batch = 1"):
            payloads.read(
                tmp_path / "rows.parquet", payloads.inputs_of(described, model(2, sequence=Dim(1, 3, 9))), rng()
            )

    def test_a_model_without_a_batch_takes_each_row_as_it_is(self, tmp_path):
        np.savez(tmp_path / "rows.npz", x=np.arange(32.0 * 6).reshape(32, 2, 3))
        (first, *_) = payloads.read(
            tmp_path / "rows.npz", payloads.inputs_of(metadata(x=("FP64", [2, 3])), model()), rng()
        )
        assert first["x"].shape == (2, 3)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"other": np.zeros(40)}, "has no column 'image'"),
            ({"image": np.zeros((10, 1, 8, 8))}, "has 10 rows; wanted at least 32"),
            ({"image": np.zeros((40, 3))}, r"a row of 'image' has shape \(3,\); wanted \(1, 8, 8\)"),
            ({"image": np.full((40, 1, 8, 8), "a")}, "column 'image' has dtype <U1; wanted float32"),
        ],
    )
    def test_a_file_that_does_not_fit_is_refused(self, tmp_path, arrays, message):
        np.savez(tmp_path / "rows.npz", **arrays)
        with pytest.raises(UserError, match=message):
            payloads.read(tmp_path / "rows.npz", payloads.inputs_of(metadata(**IMAGE), model()), rng())

    def test_integers_that_do_not_fit_are_refused_and_floats_are_never_cut(self, tmp_path):
        inputs = payloads.inputs_of(metadata(x=("INT8", [-1])), model())
        np.savez(tmp_path / "large.npz", x=np.full(40, 300))
        with pytest.raises(UserError, match="column 'x' has values beyond int8"):
            payloads.read(tmp_path / "large.npz", inputs, rng())
        np.savez(tmp_path / "float.npz", x=np.full(40, 0.5))
        with pytest.raises(UserError, match="column 'x' has dtype float64; wanted int8"):
            payloads.read(tmp_path / "float.npz", inputs, rng())

    def test_columns_of_different_length_are_refused(self, tmp_path):
        np.savez(tmp_path / "rows.npz", a=np.zeros(40), b=np.zeros(41))
        with pytest.raises(UserError, match=r"columns have .* rows; wanted one length"):
            payloads.read(
                tmp_path / "rows.npz", payloads.inputs_of(metadata(a=("FP64", [-1]), b=("FP64", [-1])), model()), rng()
            )

    @pytest.mark.parametrize("name", ["rows.npz", "rows.parquet"])
    def test_a_missing_or_damaged_file_is_one_clear_line(self, tmp_path, name):
        inputs = payloads.inputs_of(metadata(**IMAGE), model())
        with pytest.raises(UserError, match="no such file"):
            payloads.read(tmp_path / name, inputs, rng())
        (tmp_path / name).write_bytes(b"garbage")
        with pytest.raises(UserError, match="cannot be read as"):
            payloads.read(tmp_path / name, inputs, rng())
