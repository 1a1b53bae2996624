"""Prior masks: where the query resembles the support, from high-level features, without parameters."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from symnet.model.constants import constant
from symnet.model.numbers import wide
from symnet.model.products import batched
from symnet.model.resize import resize

WINDOWS = ((5, 5), (7, 1), (1, 7))
EPS = 1e-7


def spm(query: Tensor, support: Tensor, mask: Tensor) -> Tensor:
    """Self-activation prior mask (eqs. 1-3). Returns [B, K, H, W] in [0, 1], one prior a support image.

    query [B, C, H, W], support [B, K, C, H, W], mask [B, K, H, W] in [0, 1]. The score of a query region is the mean over all
    support regions of cos(r_q, r_s) * |r_q| (the L2 norm, as the text of eq. 2 says). Nothing bends between the inner product and
    the mean, so mean_j cos(q_i, s_j) |q_i| = <q_i, mean_j s_j / |s_j|>, and pooling the query commutes with that product as well:
    O(HW C) work and memory where the equations read O((HW)^2 C). Of features in 16 bits, regions and products are 16 bits as well; norms,
    scores and what comes after are float32.
    """
    batch, shots = mask.shape[:2]
    masked = (support * mask.to(support.dtype).unsqueeze(2)).flatten(0, 1)
    masked = masked.permute(0, 2, 3, 1).contiguous()  # [BK, H, W, C]: pooled and normed in rows
    priors = []
    for window in WINDOWS:
        regions = _pool(masked, window).flatten(1, 2)  # [BK, HW, C]
        mean = _mean_direction(regions).view(batch, shots, -1)  # [B, K, C]
        score = wide(batched(mean, query.flatten(2)).unflatten(2, query.shape[2:]))
        priors.append(min_max(_pool(score.unsqueeze(4), window).squeeze(4)))  # [B, K, H, W]
    return torch.stack(priors).mean(0)


def pfenet_prior(query: Tensor, support: Tensor, mask: Tensor, budget: int = 1 << 24) -> Tensor:
    """PFENet's prior: `max_cosine`, min-max normalised. Returns [B, K, H, W] in [0, 1]."""
    return min_max(max_cosine(query, support, mask, budget))


def max_cosine(query: Tensor, support: Tensor, mask: Tensor, budget: int = 1 << 24) -> Tensor:
    """The largest cosine over the masked support positions; masked-out ones count 0. Returns [B, K, H, W] in [-1, 1].

    Arguments as `spm`. The [HW, HW] matrix is made in pieces of at most `budget` elements.
    """
    query, support = wide(query), wide(support)
    batch, shots, height, width = mask.shape
    queries = query.flatten(2).unsqueeze(1)  # [B, 1, C, HW]
    supports = (support * mask.unsqueeze(2)).flatten(3).transpose(2, 3)  # [B, K, HW, C]
    query_norm, support_norm = queries.norm(dim=2, keepdim=True), supports.norm(dim=3, keepdim=True)
    step = max(1, budget // (batch * shots * height * width))
    best = queries.new_full((batch, shots, height * width), -1.0)
    for start in range(0, height * width, step):
        piece = slice(start, start + step)
        cosine = supports[:, :, piece] @ queries / (support_norm[:, :, piece] * query_norm + EPS)  # [B, K, step, HW]
        best = torch.maximum(best, cosine.amax(2))
    return best.view(batch, shots, height, width)


def hpm(query: Tensor, support: Tensor, mask: Tensor, scales: Sequence[int]) -> tuple[Tensor, ...]:
    """MIANet's hierarchical prior: one a scale, fine to coarse, each [B, K, s, s] in [0, 1].

    Arguments as `spm`; scales: the decoder's sides. At each scale the score of a query position is the mean cosine over all support
    positions (masked-out ones count 0), min-max normalised; the query, times its prior, is then pooled to the next scale, while support
    and mask are resized (the mask from scale to scale). No clamp and no max, so the mean commutes with the product here as well. Where the
    first scale is finer than the features (VGG: 60 over 30), both sides are resized to it, and the next starts from the query as it was.
    K shots: each support has its own hierarchy (MIANet itself uses the first support only).
    """
    query, support = wide(query), wide(support)
    batch, shots, side = *mask.shape[:2], query.shape[-1]
    own = query.unsqueeze(1).expand(-1, shots, -1, -1, -1).flatten(0, 1)  # [BK, C, H, W]: each support weights the query by its own prior
    original, at = support.flatten(0, 1), mask.flatten(0, 1).unsqueeze(1)  # [BK, C, H, W], [BK, 1, H, W]
    q, priors = own, []
    for place, scale in enumerate(scales):
        finer = scale > side
        if place:
            q = F.adaptive_avg_pool2d(q, scale)
        elif finer:
            q = resize(own, scale)
        at = resize(at, scale)
        s = (resize(original, scale) * at).flatten(2)  # [BK, C, P]
        mean = (s / (s.norm(dim=1, keepdim=True) + EPS)).mean(2)  # [BK, C]
        fine = q.double() if place else q  # positions of a coarse map differ by little, and min-max makes much of it
        score = batched(mean.unsqueeze(1).to(fine.dtype), fine.flatten(2)).view(-1, scale, scale) / (fine.norm(dim=1) + EPS)
        prior = min_max(score).to(q.dtype)  # [BK, s, s]
        priors.append(prior.unflatten(0, (batch, shots)))
        q = own if finer else q * prior.unsqueeze(1)
    return tuple(priors)


def min_max(score: Tensor) -> Tensor:
    """Each map [..., H, W] moved and scaled to [0, 1]; a constant map becomes 0."""
    low, high = score.amin((-2, -1), keepdim=True), score.amax((-2, -1), keepdim=True)
    return (score - low) / (high - low + EPS)


def _mean_direction(regions: Tensor) -> Tensor:
    """mean_j r_j / |r_j| over positions: [n, P, C] -> [n, C]."""
    norm = torch.linalg.vector_norm(regions, dim=2, dtype=wide(regions[:0]).dtype) + EPS
    if regions.dtype not in (torch.float16, torch.bfloat16):
        return batched((1 / norm / regions.shape[1]).unsqueeze(1), regions).squeeze(1)
    share = (1 / norm).clamp(max=6e4).to(regions.dtype)  # what float16 can hold; more than that are regions of zeros
    return (torch.bmm(share.unsqueeze(1), regions).squeeze(1).float() / regions.shape[1]).to(regions.dtype)


def _pool(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Average over a window, zero padding counted in the mean: [..., H, W, C] keeps its size.

    A window is a product of two, along the height and along the width, and each is a product with a small band matrix: on a CPU many
    times faster than the library's pooling.
    """
    height, width = window
    if height > 1:
        x = _along(x.flatten(-2), height).view_as(x)
    return _along(x, width) if width > 1 else x


def _along(x: Tensor, length: int) -> Tensor:
    """Average along the last axis but one: [..., n, m]. By a product an image."""
    band = _band(x.shape[-2], length, x.device, x.dtype)
    flat = x.flatten(0, -3)
    return batched(band.expand(len(flat), -1, -1), flat).view_as(x)


@constant
def _band(size: int, length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[size, size], symmetric: 1/length where two positions are at most length // 2 apart."""
    places = torch.arange(size, device=device)
    return ((places[:, None] - places).abs() <= length // 2).to(dtype) / length
