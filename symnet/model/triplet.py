"""The co-triplet loss (eq. 12)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from symnet.model.divisors import Divisors, usable
from symnet.model.numbers import wide
from symnet.model.prototypes import Regions, masked_mean


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean, over the last axis; 1e-6 added to the difference keeps the gradient finite at 0."""
    return (a - b + 1e-6).norm(dim=-1)


def co_triplet(
    query: Tensor,
    regions: Regions,
    support: Tensor,
    features: Tensor,
    foreground: Tensor,
    margin: float = 0.5,
    metric: Literal["normalised", "printed"] = "normalised",
    divisors: Divisors | None = None,
) -> Tensor:
    """The co-optimised hard triplet loss (eq. 12), a scalar.

    query [B, C]: the augmented query prototype, anchor of `regions` (positive: hard, negative: background).
    support [B, C]: the augmented support prototype, anchor over `features` [B, K, C, H, W] with `foreground` bool [B, K, H, W]
    (positive: the farthest foreground position, negative: the mean background vector; 255 counts as background). Images without
    foreground or without background are left out of the divisor; mean over shots.
    `normalised`: between L2-normalised vectors. `printed`: eq. 12 as it stands. divisors: of the batch that this is a part of.
    What has 16 bits is computed in float32.
    """

    query, support, features = wide(query), wide(support), wide(features)
    regions = Regions(*(wide(mean) for mean in regions))

    def unit(x: Tensor, dim: int = -1) -> Tensor:
        return F.normalize(x, dim=dim) if metric == "normalised" else x

    anchor = unit(query)
    query_terms = F.relu(distance(anchor, unit(regions.hard)) + margin - distance(anchor, unit(regions.background)))  # [B]

    batch, shots = foreground.shape[:2]
    inside = foreground.flatten(2).flatten(0, 1)  # [BK, P]
    positions = unit(features.flatten(0, 1).flatten(2), 1)  # [BK, C, P]
    anchors = unit(support).repeat_interleave(shots, 0)  # [BK, C]
    farthest = distance(anchors.unsqueeze(1), positions.transpose(1, 2)).masked_fill(~inside, -1.0).amax(1)  # [BK]
    negative = distance(anchors, masked_mean(positions, (~inside).float()))  # [BK]
    used = usable(foreground)  # [B, K]
    support_terms = torch.where(used, F.relu(farthest + margin - negative).view(batch, shots), 0.0)
    episodes, supports = (batch, used.sum(0)) if divisors is None else (divisors.episodes, divisors.usable)
    return query_terms.sum() / episodes + (support_terms.sum(0) / supports.clamp(min=1)).mean()
