"""TDC: hyper-correlations of the block maps, and their top-down fusion (eq. 13)."""

from typing import Literal

import torch
from torch import Tensor, nn

from symnet.model.resize import resize, resize_mask

EPS = 1e-5  # added to each norm
PAIRS = 4  # pairs handled together on a CPU


def hyper_correlations(query: list[Tensor], support: list[Tensor], mask: Tensor, side: int) -> Tensor:
    """`correlation_maps` of block maps that may differ in side (VGG's do), each at its own, then resized to `side` H. [B, N, H, H].

    query, support: as `correlation_maps`; mask [B, K, S, S] in {0, 1} at the image's side.
    """
    own_sides = [q.shape[-1] for q in query]
    found: dict[int, Tensor] = {}
    for own in sorted(set(own_sides)):
        chosen = [i for i, other in enumerate(own_sides) if other == own]
        maps = correlation_maps([query[i] for i in chosen], [support[i] for i in chosen], resize_mask(mask, own))
        found |= dict(zip(chosen, resize(maps, side).unbind(1), strict=True))
    return torch.stack([found[i] for i in range(len(query))], 1)


def correlation_maps(query: list[Tensor], support: list[Tensor], mask: Tensor, budget: int = 1 << 24) -> Tensor:
    """One map a block: the cosine of each query position with the support foreground, clamped at 0, averaged. Returns [B, N, H, W].

    query: N block maps [B, C_i, H, W]; support: N block maps [B, K, C_i, H, W]; mask [B, K, H, W], whose positions equal to 1 are
    the foreground (none: the map is 0). The K shots are averaged evenly. Memory beside the inputs: at most `budget` elements of
    cosines, and on a CPU the foreground vectors of `PAIRS` pairs.
    """
    batch, shots, height, width = mask.shape
    foreground = (mask.flatten(2) == 1).flatten(0, 1)  # [BK, HW]
    share = foreground.to(query[0].dtype) / foreground.sum(1, keepdim=True).clamp(min=1)  # each row sums to 1, or is 0
    pieces = _pieces(foreground)
    maps = []
    for q, s in zip(query, support, strict=True):
        queries = q.flatten(2)
        queries = (queries / (queries.norm(dim=1, keepdim=True) + EPS)).transpose(1, 2)  # [B, HW, C]
        supports = s.flatten(0, 1).flatten(2)  # [BK, C, HW]
        found = torch.empty_like(share)
        for pairs, positions in pieces:
            found[pairs] = _mean_cosine(queries[pairs // shots], supports[pairs], share[pairs], positions, budget)
        maps.append(found.view(batch, shots, height, width).mean(1))
    return torch.stack(maps, 1)


def _pieces(foreground: Tensor) -> list[tuple[Tensor, Tensor | None]]:
    """Pairs (of query and support) to handle together, and the support positions to look at: pairs [p], positions [p, M] or None (all).

    On a CPU pairs of like foreground size go together and their background is left out of the product. On a GPU that would wait for the
    device: all pairs at once, all positions.
    """
    everything = torch.arange(len(foreground), device=foreground.device)
    if foreground.is_cuda:
        return [(everything, None)]
    counts = foreground.sum(1)
    inside_first = foreground.to(torch.uint8).argsort(dim=1, descending=True, stable=True)  # [BK, HW]
    return [(pairs, inside_first[pairs, : max(int(counts[pairs].max()), 1)]) for pairs in counts.argsort(stable=True).split(PAIRS)]


def _mean_cosine(queries: Tensor, supports: Tensor, share: Tensor, positions: Tensor | None, budget: int) -> Tensor:
    """Unit queries [p, HW, C], supports [p, C, HW], share [p, HW], positions [p, M] -> [p, HW]."""
    if positions is not None:
        supports = supports.gather(2, positions.unsqueeze(1).expand(-1, supports.shape[1], -1))  # [p, C, M]
        share = share.gather(1, positions)
    supports = supports / (supports.norm(dim=1, keepdim=True) + EPS)
    step = max(1, budget // share.numel())
    rows = queries.split(step, 1)
    return torch.cat([(torch.bmm(piece, supports).clamp_(min=0) @ share.unsqueeze(2)).squeeze(2) for piece in rows], 1)


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
