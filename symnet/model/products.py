"""Products of which an image's share does not depend on the batch that it is in.

So that counts are the same with records, which are made in one order of episodes, and without them, in another. What the library computes
of an image depends on its neighbours in convolutions, and on a CPU in products of fewer than five rows: by its place in the batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 5


def batched(a: Tensor, b: Tensor) -> Tensor:
    """`torch.bmm(a, b)`: [B, M, N] and [B, N, P] -> [B, M, P]."""
    rows = a.shape[1]
    if rows >= ROWS or a.device.type != "cpu":
        return torch.bmm(a, b)
    return torch.bmm(F.pad(a, (0, 0, 0, ROWS - rows)), b)[:, :rows]


def pointwise(weight: Tensor, x: Tensor, beside: Tensor | None = None) -> Tensor:
    """A 1x1 convolution, [O, C, 1, 1] of [B, C, s, s]; added to what stands beside: [B, O, s, s], or one value a channel [., O, 1, 1]."""
    weight, flat = weight[:, :, 0, 0].expand(len(x), -1, -1), x.flatten(2)
    found = batched(weight, flat) if beside is None else torch.baddbmm(beside.flatten(2), weight, flat)
    return found.unflatten(2, x.shape[2:])


class Pointwise(nn.Conv2d):
    """A 1x1 convolution without bias: [B, C, H, W] -> [B, O, H, W]. Without gradient on a CPU it is `pointwise`."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """As a convolution."""
        return super().forward(x) if x.device.type != "cpu" or torch.is_grad_enabled() else pointwise(self.weight, x)
