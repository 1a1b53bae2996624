"""The co-triplet loss (eq. 12)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

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
) -> Tensor:
    """The co-optimised hard triplet loss (eq. 12), a scalar.

    query [B, C]: the augmented query prototype, anchor of `regions` (positive: hard, negative: background).
    support [B, C]: the augmented support prototype, anchor over `features` [B, K, C, H, W] with `foreground` bool [B, K, H, W]
    (positive: the farthest foreground position, negative: the mean background vector; 255 counts as background). Images without
    foreground or without background are left out of the divisor; mean over shots.
    `normalised`: between L2-normalised vectors. `printed`: eq. 12 as it stands.
    """

    def unit(x: Tensor, dim: int = -1) -> Tensor:
        return F.normalize(x, dim=dim) if metric == "normalised" else x

    anchor = unit(query)
    query_loss = F.relu(distance(anchor, unit(regions.hard)) + margin - distance(anchor, unit(regions.background))).mean()

    batch, shots = foreground.shape[:2]
    inside = foreground.flatten(2).flatten(0, 1)  # [BK, P]
    positions = unit(features.flatten(0, 1).flatten(2), 1)  # [BK, C, P]
    anchors = unit(support).repeat_interleave(shots, 0)  # [BK, C]
    farthest = distance(anchors.unsqueeze(1), positions.transpose(1, 2)).masked_fill(~inside, -1.0).amax(1)  # [BK]
    negative = distance(anchors, masked_mean(positions, (~inside).float()))  # [BK]
    usable = (inside.any(1) & ~inside.all(1)).view(batch, shots)
    each = F.relu(farthest + margin - negative).view(batch, shots)
    per_shot = torch.where(usable, each, 0.0).sum(0) / usable.sum(0).clamp(min=1)
    return query_loss + per_shot.mean()
