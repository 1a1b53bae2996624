"""TDC: hyper-correlations of the block maps, and their top-down fusion (eq. 13)."""

from typing import Literal

import torch
from torch import Tensor, nn

from symnet import kernels
from symnet.model.numbers import wide
from symnet.model.resize import resize, resize_mask

EPS = 1e-5  # added to each norm


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
    """One map a block: the cosine of each query position with the support foreground, clamped at 0, averaged. [B, N, H, W] float32.

    query: N block maps [B, C_i, H, W]; support: N block maps [B, K, C_i, H, W]; mask [B, K, H, W], whose positions equal to 1 are
    the foreground (none: the map is 0). The K shots are averaged evenly. A positive factor passes through the clamp, so norms divide sums
    and weights, never the maps. Memory beside the inputs: at most `budget` elements of products, and on a CPU one pair's foreground; of
    the kernel, none. Norms and sums are float32 (float64 of float64) whatever the maps are.
    """
    batch, shots, height, width = mask.shape
    foreground = (mask.flatten(2) == 1).flatten(0, 1)  # [BK, HW]
    # On a CPU each pair's background is left out of its product. On a GPU that would wait for the device: it gets the weight 0.
    inside = [row.nonzero().squeeze(1) for row in foreground] if foreground.device.type == "cpu" else None
    maps = []
    for q, s in zip(query, support, strict=True):
        queries = q.flatten(2).transpose(1, 2)  # [B, HW, C]
        supports = s.flatten(0, 1).flatten(2)  # [BK, C, HW]
        pairs = _all_at_once(queries, supports, foreground, budget) if inside is None else _pair_by_pair(queries, supports, inside, budget)
        mean = pairs.view(batch, shots, -1).mean(1) / (_norm(q.flatten(2), 1) + EPS)  # [B, HW]
        maps.append(mean.view(batch, height, width))
    return torch.stack(maps, 1)


def _all_at_once(queries: Tensor, supports: Tensor, foreground: Tensor, budget: int) -> Tensor:
    """queries [B, HW, C], supports [BK, C, HW], foreground bool [BK, HW] -> [BK, HW]: mean of |q| cos, clamped."""
    share = foreground / foreground.sum(1, keepdim=True).clamp(min=1)  # each row sums to 1, or is 0
    norm = _norm(supports, 1)
    weight = share.to(norm.dtype) / (norm + EPS)
    if kernels.fits(queries, supports):
        from symnet.kernels.correlation import clamped_mean  # here: it needs Triton

        return clamped_mean(queries, supports.transpose(1, 2), foreground, weight)
    return _clamped_mean(queries.repeat_interleave(len(supports) // len(queries), 0), supports, weight, budget)


def _pair_by_pair(queries: Tensor, supports: Tensor, inside: list[Tensor], budget: int) -> Tensor:
    """The same, of the positions `inside` of each pair only."""
    found = []
    shots = len(supports) // len(queries)
    for pair, positions in enumerate(inside):
        chosen = supports[pair].index_select(1, positions)  # [C, M]
        weight = 1 / ((_norm(chosen, 0) + EPS) * max(len(positions), 1))
        found.append(_clamped_mean(queries[pair // shots], chosen, weight, budget))
    return torch.stack(found)


def _norm(x: Tensor, dim: int) -> Tensor:
    """Euclidean, over `dim`. On a CPU the library's norm over an axis that is not the last takes ten times as long as a dot product."""
    if x.dtype in (torch.float16, torch.bfloat16):
        return torch.linalg.vector_norm(x, dim=dim, dtype=torch.float32)
    return torch.linalg.vecdot(x, x, dim=dim).sqrt() if x.device.type == "cpu" else x.norm(dim=dim)


def _clamped_mean(queries: Tensor, supports: Tensor, weight: Tensor, budget: int) -> Tensor:
    """queries [..., P, C], supports [..., C, M], weight [..., M] -> [..., P]: the weighted sum of clamped products, rows in pieces."""
    if queries.dtype == torch.float16:
        queries, supports = wide(queries), wide(supports)  # products of what is not of unit length may not fit
    rows = queries.split(max(1, budget // max(weight.numel(), 1)), -2)
    sums = [(torch.matmul(piece, supports).clamp_(min=0).to(weight.dtype) @ weight.unsqueeze(-1)).squeeze(-1) for piece in rows]
    return torch.cat(sums, -1)


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
