"""Write a source model's graph as an ONNX file with the names that its signature declares."""

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from optimize.arrays import Arrays
from optimize.errors import ExecutionError, SourceError, first_line
from optimize.manifest import TensorSpec
from optimize.source.model import TorchModel

_OPSET = 18
_CAUSE_CHARACTERS = 300


def copy_onnx(source: Path, target: Path) -> None:
    """Check an ONNX file and copy it, together with its external data.

    Raises:
        SourceError: It is not a valid ONNX model.
    """
    import onnx  # noqa: PLC0415

    try:
        onnx.checker.check_model(str(source))
        model = onnx.load(source)
    except (onnx.checker.ValidationError, DecodeError, OSError, ValueError, RuntimeError) as error:
        raise SourceError(f"{source}: not a valid ONNX model: {first_line(error)}") from error
    external = any(
        tensor.data_location == onnx.TensorProto.EXTERNAL
        for tensor in onnx.load(source, load_external_data=False).graph.initializer
    )
    if external:
        onnx.save(model, target, save_as_external_data=True, location=f"{target.name}.data")
    else:
        shutil.copyfile(source, target)


def export_torch(model: TorchModel, inputs: tuple[TensorSpec, ...], example: Arrays, target: Path) -> None:
    """Write the module's graph with the declared names of inputs, outputs and axes.

    Raises:
        SourceError: The module fails on the example, or the exporter on the module.
    """
    import torch  # noqa: PLC0415

    args, kwargs = model.arguments(model.tensors(example))
    try:
        names = list(model.run(example))
    except ExecutionError as error:
        raise SourceError(str(error)) from error
    dynamic = {
        spec.name: {axis: torch.export.Dim.DYNAMIC for axis, name in enumerate(spec.shape) if isinstance(name, str)}
        for spec in inputs
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter uses functions that it deprecates itself
        try:
            program = torch.onnx.export(
                model.module,
                args,
                kwargs=kwargs,
                dynamic_shapes=model.parameters(dynamic),
                # If an output has the name of an inner value, the exporter defines that name twice.
                output_names=[f"proveserve.{name}" for name in names],
                opset_version=_OPSET,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # the stages of the exporter raise anything
            raise SourceError(f"the model cannot be exported to ONNX: {_cause(error)}") from error
    if program is None:
        raise SourceError("the model cannot be exported to ONNX: the exporter returned no program")
    program.save(str(target), external_data=False)
    by_name = {spec.name: spec for spec in inputs}
    _rename(target, [by_name[name] for name in model.input_names], names)


def _cause(error: BaseException) -> str:
    """The first cause; the exporter's own text is advice on its stages."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_CAUSE_CHARACTERS]}"


def _rename(path: Path, inputs: list[TensorSpec], outputs: list[str]) -> None:
    """Give the graph's inputs (in the order of the call), outputs and dynamic axes the names that the signature declares."""
    import onnx  # noqa: PLC0415

    model = onnx.load(path)
    graph, graphs = model.graph, list(_with_bodies(model.graph))
    taken = {name for each in graphs for node in each.node for name in (*node.input, *node.output)}
    taken |= {tensor.name for each in graphs for tensor in each.initializer}
    wanted = dict(zip((value.name for value in graph.input), (spec.name for spec in inputs), strict=True))
    wanted |= dict(zip((value.name for value in graph.output), outputs, strict=True))
    # An inner value that already has a wanted name gets another one.
    aside = {name: f"{name}.internal" for name in set(wanted.values()) & taken - wanted.keys()}
    renamed = wanted | aside
    for each in graphs:
        for node in each.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]
        for value in (*each.input, *each.output, *each.initializer, *each.value_info):
            value.name = renamed.get(value.name, value.name)
    axes = {
        dim.dim_param: name
        for value, spec in zip(graph.input, inputs, strict=True)
        for dim, name in zip(value.type.tensor_type.shape.dim, spec.shape, strict=True)
        if dim.HasField("dim_param") and isinstance(name, str)
    }
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_param = axes.get(dim.dim_param, dim.dim_param)
    onnx.save(model, path)


def _with_bodies(graph: Any) -> Iterator[Any]:
    """A graph and the bodies of its If and Loop nodes, which see its values by name."""
    yield graph
    for node in graph.node:
        for found in node.attribute:
            for body in (found.g, *found.graphs):
                yield from _with_bodies(body)
