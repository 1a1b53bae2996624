"""The co-triplet loss (eq. 12)."""

from collections.abc import Callable
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

    unit = _unit(metric)
    anchor, hard, background = (unit(wide(x), 1) for x in (query, regions.hard, regions.background))
    query_terms = F.relu(distance(anchor, hard) + margin - distance(anchor, background))  # [B]
    positives = support_triplet(support, features, foreground, margin, metric, None if divisors is None else divisors.usable)
    return query_terms.sum() / (len(query) if divisors is None else divisors.episodes) + positives


def support_triplet(
    anchor: Tensor,
    features: Tensor,
    foreground: Tensor,
    margin: float = 0.5,
    metric: Literal["normalised", "printed"] = "normalised",
    supports: Tensor | None = None,
) -> Tensor:
    """Over a support's positions: the farthest of the foreground, and the mean of the rest; a scalar, arguments as `co_triplet`.

    anchor [B, C]; supports [K]: usable ones of the batch that this is a part of, shot by shot; None: its own.
    """
    unit = _unit(metric)
    batch, shots = foreground.shape[:2]
    inside = foreground.flatten(2).flatten(0, 1)  # [BK, P]
    positions = unit(wide(features).flatten(0, 1).flatten(2), 1)  # [BK, C, P]
    anchors = unit(wide(anchor), 1).repeat_interleave(shots, 0)  # [BK, C]
    farthest = distance(anchors.unsqueeze(1), positions.transpose(1, 2)).masked_fill(~inside, -1.0).amax(1)  # [BK]
    negative = distance(anchors, masked_mean(positions, (~inside).float()))  # [BK]
    used = usable(foreground)  # [B, K]
    terms = torch.where(used, F.relu(farthest + margin - negative).view(batch, shots), 0.0)
    return (terms.sum(0) / (used.sum(0) if supports is None else supports).clamp(min=1)).mean()


def _unit(metric: Literal["normalised", "printed"]) -> Callable[[Tensor, int], Tensor]:
    """What vectors along an axis are brought to before a distance is taken."""
    return (lambda x, dim: F.normalize(x, dim=dim)) if metric == "normalised" else (lambda x, dim: x)
