import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimize.budgets import Dim
from optimize.errors import ArtifactError
from optimize.manifest import Signature, TensorSpec
from optimize.runtime.batching.collate import Collator

TEXT = Signature(
    (TensorSpec("ids", "int64", ("batch", "seq"), 0.0), TensorSpec("mask", "int64", ("seq", "batch"), 0.0)),
    (TensorSpec("sum", "int64", ("batch",)), TensorSpec("each", "int64", ("seq", 2, "batch"))),
    {"batch": Dim(1, 1, 64), "seq": Dim(1, 4, 64)},
)


def text_model(inputs):
    """Padding-proof: masked positions count for nothing, and the second output has an entry per position."""
    masked = inputs["ids"] * inputs["mask"].T
    return {"sum": masked.sum(axis=1), "each": np.stack([masked.T, -masked.T], axis=1)}


def text_request(rows, length, seed):
    ids = np.random.default_rng(seed).integers(1, 100, (rows, length))
    return {"ids": ids, "mask": np.ones((length, rows), dtype=np.int64)}


def through(signature, model, requests):
    collator = Collator(signature)
    shapes = [collator.shape(inputs) for inputs in requests]
    rows = [inputs["ids"].shape[0] for inputs in requests]
    assert len({collator.group(inputs, shape) for inputs, shape in zip(requests, shapes, strict=True)}) == 1
    return collator.split(model(collator.collate(requests)), rows, shapes)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9)), min_size=1, max_size=6))
def test_joint_answers_equal_lone_ones_with_padding_and_batch_on_any_axis(sizes):
    requests = [text_request(rows, length, seed) for seed, (rows, length) in enumerate(sizes)]
    for inputs, outputs in zip(requests, through(TEXT, text_model, requests), strict=True):
        for name, wanted in text_model(inputs).items():
            np.testing.assert_array_equal(outputs[name], wanted)


def test_answers_are_views_of_the_joint_output():
    collator = Collator(TEXT)
    requests = [text_request(2, 3, 0), text_request(1, 5, 1)]
    outputs = text_model(collator.collate(requests))
    for part in collator.split(outputs, [2, 1], [(3,), (5,)]):
        assert all(np.shares_memory(part[name], outputs[name]) for name in outputs)


def test_a_lone_request_passes_untouched():
    collator = Collator(TEXT)
    inputs = text_request(2, 3, 0)
    assert collator.collate([inputs]) is inputs
    outputs = {"sum": np.zeros(7)}
    assert collator.split(outputs, [2], [(3,)]) == [outputs]


def test_without_a_pad_value_other_dims_must_be_equal():
    plain = TensorSpec("ids", "int64", ("batch", "seq"))
    collator = Collator(Signature((plain,), (TensorSpec("y", "int64", ("batch",)),)))
    groups = [collator.group({"ids": np.zeros((1, n), np.int64)}, (n,)) for n in (3, 4, 3)]
    assert groups[0] == groups[2] != groups[1]


def test_a_dim_is_padded_only_if_every_input_that_has_it_declares_a_pad():
    signature = Signature(
        (TensorSpec("ids", "int64", ("batch", "seq"), 0.0), TensorSpec("types", "int64", ("batch", "seq"))),
        (TensorSpec("y", "int64", ("batch",)),),
    )
    collator = Collator(signature)
    a, b = ({name: np.zeros((1, n), np.int64) for name in ("ids", "types")} for n in (3, 4))
    assert collator.group(a, (3,)) != collator.group(b, (4,))


@pytest.mark.parametrize(
    ("one", "other", "batchable"),
    [
        (np.float32(0.5), np.float32(0.5), True),
        (np.float32(0.5), np.float32(0.25), False),
        (np.float32(0.0), np.float32(-0.0), False),
        (np.float32("nan"), np.float32("nan"), True),
    ],
)
def test_inputs_without_a_batch_axis_must_be_byte_equal(one, other, batchable):
    signature = Signature(
        (TensorSpec("x", "float32", ("batch",)), TensorSpec("t", "float32", ())),
        (TensorSpec("y", "float32", ("batch",)),),
    )
    collator = Collator(signature)
    a, b = ({"x": np.ones(1, np.float32), "t": np.array(t)} for t in (one, other))
    assert (collator.group(a, ()) == collator.group(b, ())) is batchable
    if batchable:
        joined = collator.collate([a, b])
        assert joined["t"] is a["t"]
        assert joined["x"].shape == (2,)


def test_strings_are_joined_and_compared_by_value():
    signature = Signature(
        (TensorSpec("text", "object", ("batch",)), TensorSpec("language", "object", (1,))),
        (TensorSpec("y", "float32", ("batch",)),),
    )
    collator = Collator(signature)
    languages = ["".join(letters) for letters in (("d", "e"), ("d", "e"), ("e", "n"))]
    requests = [
        {"text": np.array([f"row {n}"], object), "language": np.array([language], object)}
        for n, language in enumerate(languages)
    ]
    groups = [collator.group(inputs, ()) for inputs in requests]
    assert groups[0] == groups[1] != groups[2]
    assert collator.collate(requests[:2])["text"].tolist() == ["row 0", "row 1"]


def test_shared_inputs_of_equal_bytes_but_different_shapes_are_distinguished():
    signature = Signature(
        (TensorSpec("x", "float32", ("batch",)), TensorSpec("grid", "float32", ("h", "w"))),
        (TensorSpec("y", "float32", ("batch",)),),
    )
    collator = Collator(signature)
    groups = {
        collator.group({"x": np.ones(1, np.float32), "grid": np.zeros(shape, np.float32)}, shape)
        for shape in ((2, 3), (3, 2), (2, 3))
    }
    assert len(groups) == 2


def test_an_output_that_lost_rows_is_an_error_and_not_a_wrong_answer():
    collator = Collator(TEXT)
    with pytest.raises(ArtifactError, match=r"output 'sum' has 2 rows for 3 that went in"):
        collator.split({"sum": np.zeros(2)}, [2, 1], [(3,), (3,)])
