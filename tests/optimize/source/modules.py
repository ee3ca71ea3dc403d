"""PyTorch sources, each ordinary in its way or wrong in one."""

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """A linear layer that a factory can put into any forward."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 3)


class ByName(Net):
    def forward(self, image: Tensor, scale: Tensor) -> Tensor:
        return self.linear(image) * scale


class Positional(Net):
    def forward(self, *tensors: Tensor) -> Tensor:
        image, offset = tensors
        return self.linear(image) - offset


class TwoOutputs(Net):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.linear(x)
        return y, y.argmax(dim=1)


class Conditional(Net):
    """Its branches read the input, and a value that is an output as well."""

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        (x,) = tensors
        y = self.linear(x)

        def positive(x: Tensor, y: Tensor) -> Tensor:
            return y + x.sum(dim=1, keepdim=True)

        def negative(x: Tensor, y: Tensor) -> Tensor:
            return y - x.sum(dim=1, keepdim=True)

        return y, torch.cond(x.sum() > 0, positive, negative, (x, y))


class SameOutputTwice(Net):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.linear(x)
        return y, y


class DictOutputs(Net):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.linear(x)
        return {"logits": y, "probabilities": y.softmax(dim=1)}


class InnerNames(Net):
    """Its values are named `add`, `relu`, `mul` in the exported graph."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.linear(x) + 1.0) * 2.0


class Sequence(Net):
    """ids[batch, n] -> (shifted[batch, n], differences[batch, n - 1], pooled[batch, 3])."""

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values = ids.to(torch.float32)
        features = torch.stack([values, values.cos(), values.sin(), torch.ones_like(values)], dim=-1)
        return ids + 1, values[:, 1:] - values[:, :-1], self.linear(features).mean(dim=1)


class DiffersAt(Net):
    """Its graph gives another answer than the module at one batch size."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y + 1.0 if not torch.compiler.is_exporting() and x.shape[0] == self.rows else y


def differs_at_1() -> nn.Module:
    return DiffersAt(1)


def differs_at_2() -> nn.Module:
    return DiffersAt(2)


def differs_at_5() -> nn.Module:
    return DiffersAt(5)


class BatchLast(Net):
    """x[4, batch] -> y[3, batch]."""

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.transpose(0, 1)).transpose(0, 1)


class NoBatch(Net):
    """x[4] -> y[3]."""

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class IgnoresAnInput(Net):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # noqa: ARG002 - that is the point
        return self.linear(x)


class Identity(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Random(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + torch.rand(3)


class Branching(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.sum() > 0 else -self.linear(x)


class ForgetsTheBatch(Net):
    """Works for two rows alone."""

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.reshape(2, 4))


class AnswersNone(Net):
    def forward(self, x: Tensor) -> None:
        self.linear(x)


class Training(Net):
    """Dropout would answer differently every time, were the module left in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear(x))


class Scaled(Net):
    """Holds a plain value, a list of them and a buffer that no state_dict has."""

    def __init__(self, scale: float, sizes: list[int], shift: float) -> None:
        super().__init__()
        self.scale = scale
        self.sizes = sizes
        self.register_buffer("shift", torch.tensor(shift), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.scale + self.shift


instance = ByName()


def fails() -> nn.Module:
    raise RuntimeError("weights are not here")


def gives_text() -> str:
    return "a module"
