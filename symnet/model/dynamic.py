"""A convolution whose kernel is chosen by another map (Chen et al., CVPR 2020), of an input that is the same everywhere."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNELS = 4
TEMPERATURE = 34.0


class DynamicConvolution(nn.Module):
    """3x3, zeros outside, no bias: a mixture of four kernels, whose shares a small network reads off the mean of a map that decides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(KERNELS, channels, channels, 3, 3))
        for kernel in self.weight:
            nn.init.kaiming_uniform_(kernel)
        hidden = channels // 4 + 1
        self.squeeze, self.choose = nn.Linear(channels, hidden, bias=False), nn.Linear(hidden, KERNELS)

    def forward(self, vector: Tensor, deciding: Tensor) -> Tensor:
        """vector [C], the input at every position; deciding [B, C, H, W], H and W at least 2 -> [B, C, H, W].

        Of an input that is constant inside and 0 outside there are nine answers: inside, at each edge, in each corner. They are those of a
        map of 3x3 positions, and the four kernels give them once for the batch.
        """
        shares = (self.choose(self.squeeze(deciding.mean((2, 3))).relu()) / TEMPERATURE).softmax(1)  # [B, 4]
        patch = vector[None, :, None, None].expand(1, -1, 3, 3)
        answers = F.conv2d(patch, self.weight.flatten(0, 1), padding=1).view(KERNELS, -1)  # [4, C 9]
        found = (shares.to(answers.dtype) @ answers).view(len(shares), -1, 3, 3)
        rows, columns = (_thirds(n, found.device) for n in deciding.shape[2:])
        return found[:, :, rows][:, :, :, columns]


def _thirds(count: int, device: torch.device) -> Tensor:
    """[count]: 0 for the first, 2 for the last, 1 between."""
    places = torch.arange(count, device=device)
    return (places > 0).long() + (places == count - 1).long()
