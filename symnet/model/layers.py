"""Small pieces that heads of this family are made of."""

from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn

from symnet.model.products import Pointwise


def reduction(mid: int, channels: int) -> nn.Sequential:
    """Mid features to c channels: 1x1, ReLU, Dropout2d(0.5)."""
    return nn.Sequential(Pointwise(mid, channels), nn.ReLU(inplace=True), nn.Dropout2d(0.5))


def two_convolutions(channels: int) -> nn.Sequential:
    """3x3 and ReLU, twice: what is added to its own input."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.ReLU(inplace=True),
    )


def classifier(channels: int) -> nn.Sequential:
    """To two logits: 3x3, ReLU, Dropout2d(0.1), 1x1 with bias."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.ReLU(inplace=True), nn.Dropout2d(0.1), nn.Conv2d(channels, 2, 1)
    )


class FixedBatchNorm(nn.BatchNorm2d):
    """Batch norm that keeps its statistics in training, too: its scale and shift learn."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Never in training mode."""
        return super().train(False)


def tiled(vector: Tensor, like: Tensor) -> Tensor:
    """A vector [n, C] at every position of a map [n, C', H, W]: [n, C, H, W], a view."""
    return vector[:, :, None, None].expand(-1, -1, *like.shape[2:])


def beside(layer: nn.Conv2d, x: Tensor, vector: Tensor) -> Tensor:
    """`layer(torch.cat([x, tiled(vector, x)], 1))` of a 1x1 convolution: the vector's share is the same everywhere.

    x [n, C, H, W], vector [n, D] -> [n, O, H, W].
    """
    of_map, of_vector = layer.weight.split([x.shape[1], vector.shape[1]], 1)
    return F.conv2d(x, of_map, layer.bias) + (vector @ of_vector[:, :, 0, 0].T)[:, :, None, None]
