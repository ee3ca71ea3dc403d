"""Graphs out of torch's exporter, with the names and the shapes that real models have."""

import contextlib
import io
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

VOCABULARY = 200


class Residual(nn.Module):
    """A small image network: batch normalisation, a residual sum, ReLU6, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.block = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16))
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.block(x))
        return self.head(x.mean((2, 3)))


class Encoder(nn.Module):
    """A small text encoder: embeddings, two attention layers behind a mask, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.layers(self.embed(ids), src_key_padding_mask=mask == 0)
        keep = mask.unsqueeze(-1).to(hidden.dtype)
        return self.head((hidden * keep).sum(1) / keep.sum(1)), hidden


def residual(path: Path) -> Path:
    return _export(Residual(), (torch.randn(2, 3, 16, 16),), {"x": {0: "batch"}}, ["logits"], path)


def encoder(path: Path) -> Path:
    arguments = (torch.randint(0, VOCABULARY, (2, 7)), torch.ones(2, 7, dtype=torch.int64))
    dynamic = {name: {0: "batch", 1: "sequence"} for name in ("ids", "mask")}
    return _export(Encoder(), arguments, dynamic, ["logits", "hidden"], path)


def sentences(rows: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, length + 1, (rows, 1))
    return {
        "ids": rng.integers(0, VOCABULARY, (rows, length)),
        "mask": (np.arange(length)[None] < lengths).astype(np.int64),
    }


def _export(model: nn.Module, arguments: tuple, dynamic: dict, outputs: list[str], path: Path) -> Path:
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    silence = logging.getLogger("torch.onnx")
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        level, silence.level = silence.level, logging.ERROR
        program = torch.onnx.export(
            model.eval(), arguments, dynamo=True, input_names=list(dynamic), output_names=outputs, dynamic_shapes=dynamic,
            verbose=False,
        )  # fmt: skip
        silence.level = level
    program.save(str(path))
    return path
