"""HSNet's learner: 4D correlations, squeezed over their support plane by centre-pivot convolutions, then decoded in 2D."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from symnet.model.resize import resize

EPS = 1e-5  # added to each norm
GROUPS = 4  # of channels, each normalised
KERNELS = ((5, 5, 3), (5, 3, 3), (3, 3, 3))  # of the second, third and fourth stage
STRIDES = ((4, 4, 2), (4, 2, 2), (2, 2, 2))


def correlations_4d(query: list[Tensor], support: list[Tensor], weight: Tensor | None) -> Tensor:
    """Clamped cosines of every query position with every position of the masked support, a channel a block.

    query, support: n block maps [B, C_i, h, w] each; weight [B, h, w] in [0, 1], the support's mask, None: all of it ->
    [B, n, h, w, h, w], query first.
    """
    found = []
    for q, s in zip(query, support, strict=True):
        s = s if weight is None else s * weight.to(s.dtype).unsqueeze(1)
        q, s = (x.flatten(2) / (x.flatten(2).norm(dim=1, keepdim=True) + EPS) for x in (q, s))  # [B, C, HW]
        found.append((q.transpose(1, 2) @ s).clamp(min=0))  # [B, HW, HW]
    size = query[0].shape[-2:]
    return torch.stack(found, 1).unflatten(3, size).unflatten(2, size)


class CentrePivot(nn.Module):
    """A 4D convolution whose weights are 0 but where query or support position is the centre: two 2D convolutions, summed.

    The support plane is strided; the query plane keeps its size.
    """

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2)
        self.conv2 = nn.Conv2d(channels_in, channels, kernel, stride, padding=kernel // 2)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, hq, wq, hs, ws] -> [B, C', hq, wq, hs / stride, ws / stride], rounded up."""
        batch, query = x.shape[0], x.shape[2:4]
        seen = x[..., :: self.stride, :: self.stride]
        support = seen.shape[4:]
        over_query = self.conv1(seen.permute(0, 4, 5, 1, 2, 3).flatten(0, 2)).unflatten(0, (batch, *support))  # [B, hs, ws, C', hq, wq]
        over_support = self.conv2(x.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)).unflatten(0, (batch, *query))  # [B, hq, wq, C', hs, ws]
        return over_query.permute(0, 3, 4, 5, 1, 2) + over_support.permute(0, 3, 1, 2, 4, 5)


class Encoded(NamedTuple):
    """By its name in the released code: [B, 128, h, w, s, s] each, h of its stage."""

    encoder_layer4: Tensor
    encoder_layer3: Tensor
    encoder_layer2: Tensor
    encoder_layer4to3: Tensor
    encoder_layer3to2: Tensor


class Squeezed(NamedTuple):
    """Logits [B, 2, 2H, 2H], and what came before them."""

    logits: Tensor
    decoder1: Tensor  # [B, 64, H, W]
    encoded: Encoded


class Squeeze(nn.Module):
    """2.6 M parameters. groups: correlations of the second, third and fourth stage; strides: of their support planes, layer by layer."""

    def __init__(self, groups: Sequence[int], strides: Sequence[tuple[int, int, int]] = STRIDES) -> None:
        super().__init__()
        self.squeeze2, self.squeeze3, self.squeeze4 = (
            _squeeze((count, 16, 64, 128), *how) for count, *how in zip(groups, KERNELS, strides, strict=True)
        )
        self.mix3, self.mix2 = (_squeeze((128,) * 4, (3, 3, 3), (1, 1, 1)) for _ in range(2))
        self.decode1 = nn.Sequential(_conv(128, 128), nn.ReLU(), _conv(128, 64), nn.ReLU())
        self.decode2 = nn.Sequential(_conv(64, 64), nn.ReLU(), _conv(64, 2))

    def forward(self, second: Tensor, third: Tensor, fourth: Tensor) -> Squeezed:
        """Correlations [B, n, h, w, h, w] of each stage."""
        encoded = self.encode(second, third, fourth)
        return Squeezed(*self.decode(mean_over_support(encoded)), encoded)

    def encode(self, second: Tensor, third: Tensor, fourth: Tensor) -> Encoded:
        """As `forward`."""
        own4, own3, own2 = self.squeeze4(fourth), self.squeeze3(third), self.squeeze2(second)
        mixed3 = self.mix3(_resize_query(own4, own3.shape[2]) + own3)
        mixed2 = self.mix2(_resize_query(mixed3, own2.shape[2]) + own2)  # [B, 128, H, W, s, s]
        return Encoded(own4, own3, own2, mixed3, mixed2)

    def decode(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 128, H, W] -> logits [B, 2, 2H, 2H], decoder1 [B, 64, H, W]."""
        decoded = self.decode1(mean)
        return self.decode2(resize(decoded, 2 * decoded.shape[-1])), decoded


def mean_over_support(encoded: Encoded) -> Tensor:
    """Of what was mixed last: [B, 128, H, W]."""
    return encoded.encoder_layer3to2.mean((4, 5))


def _squeeze(channels: Sequence[int], kernels: Sequence[int], strides: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after, kernel, stride in zip(channels[:-1], channels[1:], kernels, strides, strict=True):
        layers += [CentrePivot(before, after, kernel, stride), nn.GroupNorm(GROUPS, after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _resize_query(x: Tensor, size: int) -> Tensor:
    """[B, C, h, w, s, s] -> [B, C, size, size, s, s]."""
    support = x.shape[4:]
    flat = x.permute(0, 4, 5, 1, 2, 3).flatten(0, 2)  # [B s s, C, h, w]
    return resize(flat, size).unflatten(0, (x.shape[0], *support)).permute(0, 3, 4, 5, 1, 2)


def _conv(channels_in: int, channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, 3, padding=1)
