"""The base learner's head (PSPNet) and its vote on what is no novel object (BAM)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symnet.model.resize import interpolation_matrix

BINS = (1, 2, 3, 6)


class PSPHead(nn.Module):
    """Pyramid pooling over bins 1, 2, 3, 6 and a classifier over background and the base classes."""

    def __init__(self, channels: int, classes: int, width: int = 512) -> None:
        super().__init__()
        part = channels // len(BINS)
        self.pyramid = nn.ModuleList(nn.Sequential(nn.Conv2d(channels, part, 1, bias=False), nn.BatchNorm2d(part)) for _ in BINS)
        self.classify = nn.Sequential(
            nn.Conv2d(channels + part * len(BINS), width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.1),
            nn.Conv2d(width, classes, 1),
        )

    def forward(self, high: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, 1 + base classes, H, W]."""
        return cast(Tensor, self.classify[2:](self.features(high)))

    def features(self, high: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, width, H, W]: what the classifier reads, before its ReLU.

        The first convolution reads features and pooled features side by side. Those come from 1 + 4 + 9 + 36 vectors, and resizing and
        convolution are linear: their half of the work is done on the vectors.
        """
        size, channels = high.shape[-1], high.shape[1]
        first = cast(nn.Conv2d, self.classify[0])  # its bias: of the batch norm after it, where that is folded
        weight = first.weight  # [width, C + 4 parts, 3, 3]
        own, *parts = weight.split([channels, *[channels // len(BINS)] * len(BINS)], 1)
        high = high.to(weight.dtype)  # of a cache where the head is in 16 bits
        x = F.conv2d(high, own, first.bias, padding=1)
        for bins, branch, part in zip(BINS, self.pyramid, parts, strict=True):
            x = x + _resized_and_convolved(F.relu(branch(F.adaptive_avg_pool2d(high, bins))), part, size)
        return cast(Tensor, self.classify[1](x))


def _resized_and_convolved(x: Tensor, weight: Tensor, size: int) -> Tensor:
    """`F.conv2d(resize(x, size), weight, padding=1)`: x [B, C, b, b], weight [O, C, 3, 3] -> [B, O, size, size].

    The weights meet x before it is resized; a row of taps then has a resizing matrix of its own, moved by one position and 0 outside.
    """
    bins = x.shape[-1]
    moved = F.pad(interpolation_matrix(bins, size, x.device, x.dtype), (0, 0, 1, 1)).unfold(0, size, 1)  # [3, b, size]
    taps = torch.einsum("ocyx,bcuv->boyuxv", weight, x).flatten(4).flatten(2, 3)  # [B, O, 3b, 3b]
    return moved.flatten(0, 1).T @ taps @ moved.flatten(0, 1)


def base_foreground(logits: Tensor, base_index: Tensor | None = None) -> Tensor:
    """p_base, the probability of any base class: [B, 1+n, H, W] -> [B, H, W] in [0, 1].

    base_index [B] (0..n-1; training): the episode's own class, left out of the sum.
    """
    probabilities = logits.float().softmax(1)
    total = probabilities[:, 1:].sum(1)
    if base_index is None:
        return total
    own = (base_index + 1).view(-1, 1, 1, 1).expand(-1, 1, *logits.shape[2:])
    return total - probabilities.gather(1, own).squeeze(1)


class Ensemble(nn.Module):
    """Join the meta learner's probabilities with psi and the base learner's vote, by two 1x1 convolutions started at [1, 0]."""

    def __init__(self) -> None:
        super().__init__()
        self.with_psi = nn.Conv2d(2, 1, 1, bias=False)
        self.with_base = nn.Conv2d(2, 1, 1, bias=False)
        with torch.no_grad():
            for layer in (self.with_psi, self.with_base):
                layer.weight.copy_(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))

    def forward(self, meta: Tensor, psi: Tensor, base: Tensor) -> Tensor:
        """Meta logits [B, 2, H, W], psi [B], p_base [B, H, W] -> maps [B, 2, H, W], used as logits."""
        probabilities = meta.float().softmax(1)
        psi_map = psi.view(-1, 1, 1, 1).expand(-1, 1, *meta.shape[2:])
        background, foreground = (self.with_psi(torch.cat([p, psi_map], 1)) for p in probabilities.split(1, 1))  # [B, 1, H, W]
        return torch.cat([self.with_base(torch.cat([background, base.unsqueeze(1)], 1)), foreground], 1)
