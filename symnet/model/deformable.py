"""Deformable self-attention (Zhu et al., ICLR 2021) in one map, by bilinear sampling of the library, and the sine positions beside it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symnet.model.constants import constant
from symnet.model.numbers import exactly, wide

HEADS, POINTS = 8, 9
TEMPERATURE = 1e4


class DeformableAttention(nn.Module):
    """Every position reads `POINTS` places a head, whose offsets from it and weights it says itself.

    At the start head h reads at 1, 2, ... steps in its direction of eight, with equal weights. In training a tenth of the positions are
    read as zeros, the others as they are, and weights pass dropout.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.offsets = nn.Linear(channels, HEADS * POINTS * 2)
        self.weights = nn.Linear(channels, HEADS * POINTS)
        self.value = nn.Linear(channels, channels, bias=False)
        self.project = nn.Linear(channels, channels, bias=False)
        self.drop_positions, self.drop_weights = nn.Dropout(0.1), nn.Dropout(0.1)
        for layer in (self.value, self.project):
            nn.init.xavier_uniform_(layer.weight)
        for zero in (self.offsets.weight, self.weights.weight, self.weights.bias):
            nn.init.zeros_(zero)
        angle = torch.arange(HEADS) * (2 * math.pi / HEADS)
        direction = torch.stack([angle.cos(), angle.sin()], 1)  # [h, 2]
        direction = direction / direction.abs().amax(1, keepdim=True)
        steps = torch.arange(1, POINTS + 1)
        self.offsets.bias = nn.Parameter((direction[:, None] * steps[None, :, None]).flatten())

    def forward(self, x: Tensor, placed: Tensor) -> Tensor:
        """x, placed [B, H, W, C]: the map, and the same with positions added, which says where to read -> [B, H, W, C]."""
        batch, height, width = x.shape[:3]
        kept = self.drop_positions(torch.ones_like(x[..., :1])) > 0
        value = (self.value(x) * kept).unflatten(3, (HEADS, -1)).permute(0, 3, 4, 1, 2).flatten(0, 1)  # [B h, C / h, H, W]
        with exactly(x.device):  # 16 bits tell no place in a map from its neighbours
            offset = F.linear(wide(placed), self.offsets.weight, self.offsets.bias).unflatten(3, (HEADS, POINTS, 2))
        size = extent(height, width, offset.device, offset.dtype)
        grid = centres(height, width, offset.device, offset.dtype)[:, :, None, None] + 2 * offset / size  # [B, H, W, h, P, 2]
        grid = grid.permute(0, 3, 1, 2, 4, 5).reshape(-1, height * width, POINTS, 2)
        weight = self.drop_weights(self.weights(placed).unflatten(3, (HEADS, POINTS)).softmax(4))
        weight = weight.permute(0, 3, 1, 2, 4).reshape(-1, height * width, POINTS)  # [B h, HW, P]
        read = F.grid_sample(value.to(grid.dtype), grid, align_corners=False)  # [B h, C / h, HW, P]
        found = (read * weight.unsqueeze(1)).sum(3).unflatten(0, (batch, HEADS))  # [B, h, C / h, HW]
        return self.project(found.flatten(1, 2).transpose(1, 2).unflatten(1, (height, width)))


@constant
def extent(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[2]: width and height, filled in on the device: a copy from the host would be waited for."""
    return torch.stack([torch.full((), length, device=device, dtype=dtype) for length in (width, height)])


@constant
def centres(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[H, W, 2]: column and row of each position's centre, in [-1, 1] from edge to edge."""
    rows, columns = (2 * (torch.arange(n, device=device, dtype=dtype) + 0.5) / n - 1 for n in (height, width))
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), 2)


@constant
def sine_positions(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """[H, W, C] float32: sines and cosines in turn, of the row in the first half of the channels and of the column in the second.

    Rows and columns are counted from 1 and scaled to 2 pi; wavelengths go up by `TEMPERATURE` over the channels.
    """
    wavelength = TEMPERATURE ** (torch.arange(0, channels // 2, 2, device=device) / (channels // 2))

    def of_axis(count: int) -> Tensor:
        phase = torch.arange(1, count + 1, device=device) / (count + 1e-6) * (2 * math.pi)
        angle = phase[:, None] / wavelength  # [count, C / 4]
        return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)

    rows, columns = of_axis(height)[:, None], of_axis(width)[None]
    return torch.cat([rows.expand(-1, width, -1), columns.expand(height, -1, -1)], 2)
