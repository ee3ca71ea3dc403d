"""The source model, which every candidate is compared with."""

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optimize.arrays import Array, Arrays
from optimize.budgets import ModelBudgets
from optimize.errors import ExecutionError, SourceError, first_line
from optimize.source.imports import attribute, code_digest, user_code


class TorchModel:
    """A PyTorch module, run eagerly. Inputs go in by name where `forward` has those names, else in declared order.

    The first `positional` parameters of `forward` always go in by position, since a saved program takes them as it was exported.
    """

    runtime = "pytorch"

    def __init__(
        self,
        module: Any,
        input_names: Sequence[str],
        output_names: Sequence[str],
        base: Path,
        threads: int,
        positional: int = 0,
    ) -> None:
        import torch  # noqa: PLC0415 - seconds to import, and an ONNX source does without

        torch.set_num_threads(threads)
        self._torch = torch
        self._base = base
        self.module = module
        self.output_names = tuple(output_names)
        self._positional, self._named = _passed(module, input_names, positional)

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs in the order in which a call passes them."""
        return (*self._positional, *self._named)

    def tensors(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        """Tensors by input name."""
        return {name: self._torch.from_numpy(np.asarray(inputs[name], order="C")) for name in self.input_names}

    def arguments(self, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Values by input name as the positional and keyword arguments of one call."""
        return tuple(values[name] for name in self._positional), {name: values[name] for name in self._named}

    def parameters(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values by input name as the arguments that `forward` binds them to."""
        args, kwargs = self.arguments(values)
        return dict(inspect.signature(self.module.forward).bind(*args, **kwargs).arguments)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Arrays:
        """Answer one batch.

        Raises:
            ExecutionError: The module failed on it, or answers something other than tensors.
        """
        try:
            args, kwargs = self.arguments(self.tensors(inputs))
            with self._torch.inference_mode():
                answer = _named(self.module(*args, **kwargs), self.output_names)
            arrays = {name: value.detach().cpu().numpy() for name, value in answer.items()}
        except Exception as error:  # the user's code may raise anything
            raise ExecutionError(first_line(error)) from error
        return arrays if outputs is None else {name: arrays[name] for name in outputs}

    def digest(self) -> str:
        """Digest of the user's code, of every parameter and buffer, and of the plain values and arrays that modules hold."""
        total = hashlib.sha256(code_digest(self._base).encode())
        for name, value in _settings(self.module):
            total.update(f"{name} = {_text(value)}|".encode())
        for name, tensor in (*self.module.named_parameters(), *self.module.named_buffers()):
            total.update(f"{name} = {_text(tensor)}|".encode())
        return total.hexdigest()


def _settings(module: Any) -> Iterator[tuple[str, object]]:
    """What a factory may have read from a file and kept in a module next to its weights, such as a scale or a table."""
    for owner, part in module.named_modules():
        for name, value in sorted(vars(part).items()):
            if name not in ("_parameters", "_buffers") and _has_value(value):
                yield f"{owner}.{name}", value


def _has_value(value: object) -> bool:
    """Whether a value is identified by its content, and not by which object it is."""
    if isinstance(value, Mapping):
        return all(map(_has_value, value.keys())) and all(map(_has_value, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_has_value, value))
    if isinstance(value, np.ndarray):
        return not value.dtype.hasobject
    return _is_tensor(value) or value is None or isinstance(value, bool | int | float | str | bytes)


def _is_tensor(value: object) -> bool:
    """Whether it is a tensor whose bytes are its values, which a sparse, quantised or meta tensor is not."""
    import torch  # noqa: PLC0415

    return (
        isinstance(value, torch.Tensor) and value.layout == torch.strided and not (value.is_quantized or value.is_meta)
    )


def _text(value: Any) -> str:
    """A value as text, an array by the digest of its bytes."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_text(key)}: {_text(entry)}' for key, entry in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    if _is_tensor(value):
        content = _bytes(value)
    elif isinstance(value, np.ndarray):
        content = value.tobytes()
    else:
        return repr(value)
    return f"{value.dtype}{list(value.shape)} {hashlib.sha256(content).hexdigest()}"


def _bytes(tensor: Any) -> bytes:
    import torch  # noqa: PLC0415

    flat = tensor.detach().cpu().contiguous().view(-1)
    return bytes(flat.view(torch.uint8).numpy().tobytes()) if flat.numel() else b""


def _passed(module: Any, names: Sequence[str], positional: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The inputs that go in by position, and those that go in by name."""
    parameters = inspect.signature(module.forward).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    free = inspect.Parameter.VAR_KEYWORD in kinds
    if any(name not in parameters and not free for name in names) or inspect.Parameter.POSITIONAL_ONLY in kinds:
        return tuple(names), ()
    first = tuple(parameters)[:positional]
    return first, tuple(name for name in names if name not in first)


def _named(answer: Any, names: Sequence[str]) -> dict[str, Any]:
    """Outputs by name: a dict's own keys, else the declared names in order, else output, or output_0, output_1 ..."""
    if isinstance(answer, Mapping):
        return {key: value for key, value in answer.items() if hasattr(value, "detach")}
    values = list(answer) if isinstance(answer, tuple | list) else [answer]
    if any(not hasattr(value, "detach") for value in values):
        raise SourceError(
            f"the model answers {type(answer).__name__}; wanted a tensor, a tuple of tensors or a dict of tensors"
        )
    if names and len(names) != len(values):
        raise SourceError(
            f"the model gives {len(values)} outputs, budgets.toml declares {len(names)}: {', '.join(names)}"
        )
    defaults = ["output"] if len(values) == 1 else [f"output_{index}" for index in range(len(values))]
    return dict(zip(names or defaults, values, strict=True))


def is_onnx(budgets: ModelBudgets) -> bool:
    """Whether the source is an ONNX file, which needs no conversion."""
    return budgets.source.endswith(".onnx")


def load_torch(budgets: ModelBudgets, base: Path, threads: int) -> TorchModel:
    """Load the nn.Module that a factory returns, or an exported program from a .pt2 file.

    Raises:
        SourceError: It cannot be loaded, or is not a module.
    """
    spec = budgets.source
    module, positional = _load_program(base / spec) if spec.endswith(".pt2") else (load_module(spec, base), 0)
    if not budgets.inputs:
        raise SourceError(
            f"{spec}: a PyTorch source needs its inputs declared; add [models.NAME.inputs.INPUT] with dtype and shape"
        )
    return TorchModel(module, tuple(budgets.inputs), tuple(budgets.outputs), base, threads, positional)


def load_module(spec: str, base: Path) -> Any:
    """The nn.Module that "file.py:attr" names or its factory returns, ready to answer.

    Raises:
        SourceError: It cannot be loaded, or is not a module.
    """
    torch = _torch(spec)
    module = factory = attribute(spec, base)
    if not isinstance(factory, torch.nn.Module):
        with user_code(f"{spec}() failed"):
            module = factory()
    if not isinstance(module, torch.nn.Module):
        raise SourceError(f"{spec}() gave {type(module).__name__}; wanted a torch.nn.Module")
    return module.eval()


def _torch(spec: str) -> Any:
    try:
        import torch  # noqa: PLC0415 - seconds to import, and an ONNX source does without
    except ImportError:
        raise SourceError(f"{spec}: needs PyTorch, which is not installed; install proveserve[cpu]") from None
    return torch


def _load_program(path: Path) -> tuple[Any, int]:
    """The program as a module, and how many of its inputs it was exported to take by position."""
    torch = _torch(path.name)
    if not path.is_file():
        raise SourceError(f"{path}: no such file; `source` is relative to the budgets file")
    try:
        program = torch.export.load(path)
        return program.module(), program.call_spec.in_spec.child(0).num_children
    except Exception as error:  # torch raises a dozen unrelated classes for a bad file
        raise SourceError(
            f"{path}: not a program that torch.export.save wrote: {str(error).splitlines()[0]}"
        ) from error
