"""The source model: what every candidate is compared with."""

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from optimize.budgets import ModelBudgets
from optimize.errors import SourceError
from optimize.source.imports import attribute, code_digest

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


class SourceModel(Protocol):
    """A model as the user gave it."""

    runtime: str

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Arrays:
        """Answer one batch."""

    def digest(self) -> str:
        """Digest of everything that its answers depend on: code and weights."""


class TorchModel:
    """A PyTorch module, run eagerly. Inputs go in by name where `forward` has those names, else in declared order."""

    runtime = "pytorch"

    def __init__(
        self, module: Any, input_names: Sequence[str], output_names: Sequence[str], base: Path, threads: int
    ) -> None:
        import torch  # noqa: PLC0415 - seconds to import, and an ONNX source does without

        torch.set_num_threads(threads)
        self._torch = torch
        self._base = base
        self.module = module
        self.output_names = tuple(output_names)
        self.by_name = _takes_names(module, input_names)
        self._input_names = tuple(input_names)

    def arguments(self, inputs: Mapping[str, Array]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword tensors for one call."""
        tensors = {name: self._torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in self._input_names}
        return ((), tensors) if self.by_name else (tuple(tensors.values()), {})

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Arrays:
        """Answer one batch."""
        args, kwargs = self.arguments(inputs)
        with self._torch.inference_mode():
            answer = _named(self.module(*args, **kwargs), self.output_names)
        arrays = {name: value.detach().cpu().numpy() for name, value in answer.items()}
        return arrays if outputs is None else {name: arrays[name] for name in outputs}

    def digest(self) -> str:
        """Digest of the imported code below the budgets file's folder, and of every parameter and buffer."""
        total = hashlib.sha256(code_digest(self._base).encode())
        for name, tensor in sorted(self.module.state_dict().items()):
            total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            total.update(
                tensor.detach().cpu().contiguous().view(-1).view(self._torch.uint8).numpy().tobytes()
                if tensor.numel()
                else b""
            )
        return total.hexdigest()


def _takes_names(module: Any, names: Sequence[str]) -> bool:
    parameters = inspect.signature(module.forward).parameters
    return all(name in parameters and parameters[name].kind is not inspect.Parameter.POSITIONAL_ONLY for name in names)


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
    try:
        import torch  # noqa: PLC0415
    except ImportError:
        raise SourceError(f"{spec}: needs PyTorch, which is not installed; install proveserve[cpu]") from None
    if spec.endswith(".pt2"):
        module = _load_program(base / spec)
    else:
        factory = attribute(spec, base)
        try:
            module = factory() if not isinstance(factory, torch.nn.Module) else factory
        except SourceError:
            raise
        except Exception as error:
            raise SourceError(f"{spec}() failed: {type(error).__name__}: {error}") from error
        if not isinstance(module, torch.nn.Module):
            raise SourceError(f"{spec}() gave {type(module).__name__}; wanted a torch.nn.Module")
        module = module.eval()
    if not budgets.inputs:
        raise SourceError(
            f"{spec}: a PyTorch source needs its inputs declared; add [models.NAME.inputs.INPUT] with dtype and shape"
        )
    return TorchModel(module, tuple(budgets.inputs), tuple(budgets.outputs), base, threads)


def _load_program(path: Path) -> Any:
    import torch  # noqa: PLC0415

    if not path.is_file():
        raise SourceError(f"{path}: no such file; `source` is relative to the budgets file")
    try:
        return torch.export.load(path).module()
    except Exception as error:
        raise SourceError(
            f"{path}: not a program that torch.export.save wrote: {str(error).splitlines()[0]}"
        ) from error
