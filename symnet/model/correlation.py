"""TDC: hyper-correlations of the block maps, and their top-down fusion (eq. 13)."""

from typing import Literal

import torch
from torch import Tensor, nn

EPS = 1e-5  # added to each norm


def correlation_maps(query: list[Tensor], support: list[Tensor], mask: Tensor, budget: int = 1 << 24) -> Tensor:
    """One map a block: the cosine of each query position with the support foreground, clamped at 0, averaged. Returns [B, N, H, W].

    query: N block maps [B, C_i, H, W]; support: N block maps [B, K, C_i, H, W]; mask [B, K, H, W], whose positions equal to 1 are
    the foreground (none: the map is 0). The K shots are averaged evenly. Memory beside the inputs: at most `budget` elements.
    """
    foreground = (mask.flatten(2) == 1).to(query[0].dtype)  # [B, K, HW]
    count = foreground.sum(2, keepdim=True).clamp(min=1)  # [B, K, 1]
    order = None
    if not foreground.is_cuda:  # no device to wait for: leave the background out of the product altogether
        longest = max(int(foreground.sum(2).max()), 1)
        order = foreground.argsort(dim=2, descending=True, stable=True)[:, :, :longest]  # [B, K, M]
        foreground = foreground.gather(2, order)
    share = foreground / count  # [B, K, M], sums to 1
    return torch.stack([_mean_cosine(q, s, share, order, budget) for q, s in zip(query, support, strict=True)], 1)


def _mean_cosine(query: Tensor, support: Tensor, share: Tensor, order: Tensor | None, budget: int) -> Tensor:
    """[B, C, H, W], [B, K, C, H, W], [B, K, M] -> [B, H, W]."""
    batch, shots, _, height, width = support.shape
    queries = query.flatten(2)
    queries = (queries / (queries.norm(dim=1, keepdim=True) + EPS)).transpose(1, 2).unsqueeze(1)  # [B, 1, HW, C]
    supports = support.flatten(3)  # [B, K, C, HW]
    if order is not None:
        supports = supports.gather(3, order.unsqueeze(2).expand(-1, -1, supports.shape[2], -1))  # [B, K, C, M]
    supports = supports / (supports.norm(dim=2, keepdim=True) + EPS)
    step = max(1, budget // (batch * shots * share.shape[2]))
    pieces = []
    for start in range(0, height * width, step):
        cosine = torch.matmul(queries[:, :, start : start + step], supports)  # [B, K, step, M]
        pieces.append((cosine.clamp_(min=0) @ share.unsqueeze(3)).squeeze(3))  # [B, K, step]
    return torch.cat(pieces, 2).mean(1).view(batch, height, width)


class Fusion(nn.Module):
    """Fuse the maps of layer4 with layer3's, then layer2's, to N' hyper-correlation channels.

    `paper` (eq. 13) concatenates; `released` sums, and normalises by one group (GN) before each ReLU. 1x1 convolutions to 16
    channels each, 3x3 to 16, 3x3 to N'. Both have the same normalisation: the print is silent on it.
    """

    def __init__(self, groups: tuple[int, int, int], channels: int, variant: Literal["paper", "released"], width: int = 16) -> None:
        super().__init__()
        self.groups, self.joins = groups, variant == "paper"
        joined = 2 * width if self.joins else width
        self.reduce2, self.reduce3, self.reduce4 = (nn.Conv2d(count, width, 1) for count in groups)
        self.merge3 = nn.Sequential(nn.Conv2d(joined, width, 3, padding=1), nn.GroupNorm(1, width), nn.ReLU(inplace=True))
        self.merge2 = nn.Sequential(
            nn.Conv2d(joined, width, 3, padding=1), nn.GroupNorm(1, width), nn.ReLU(inplace=True), nn.Conv2d(width, channels, 3, padding=1)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """[B, N, H, W] (N = sum of groups, second stage first) -> [B, N', H, W]."""
        layer2, layer3, layer4 = maps.split(self.groups, 1)
        merged = self.merge3(self._join(self.reduce3(layer3), self.reduce4(layer4)))  # [B, 16, H, W]
        return self.merge2(self._join(merged, self.reduce2(layer2)))

    def _join(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b], 1) if self.joins else a + b
