"""The frozen part: all that a trainable head needs of an episode, computed without gradient from block maps."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from symnet.backbones.base import Backbone
from symnet.config import ModelSettings
from symnet.model.base import base_foreground
from symnet.model.correlation import correlation_maps
from symnet.model.prior import pfenet_prior, spm
from symnet.model.resize import nearest_mask, resize_mask
from symnet.model.shots import dissimilarity


@dataclass(frozen=True)
class EpisodeInputs:
    """B episodes of K shots, at feature side H = W.

    `base_logits` belongs to the frozen base learner; p_base is already summed, without the episode's own class in training.
    """

    query_mid: Tensor  # [B, Cm, H, W]
    support_mid: Tensor  # [B, K, Cm, H, W]
    mask: Tensor  # [B, K, H, W] in [0, 1]
    foreground: Tensor  # [B, K, H, W] bool, by the nearest neighbour
    prior: Tensor  # [B, K, H, W] in [0, 1]
    correlations: Tensor | None  # [B, N, H, W], None without TDC
    psi: Tensor  # [B, K]
    base_logits: Tensor  # [B, 1 + n, H, W]
    base: Tensor  # [B, H, W]
    text: Tensor  # [B, T]

    def to(self, device: torch.device) -> "EpisodeInputs":
        """The same on another device."""
        held: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {name: None if value is None else value.to(device, non_blocking=True) for name, value in held.items()}
        return EpisodeInputs(**moved)


@torch.no_grad()
def freeze_episode(
    backbone: Backbone,
    settings: ModelSettings,
    query: list[Tensor],
    support: list[Tensor],
    support_mask: Tensor,
    text: Tensor,
    base_logits: Tensor,
    base_index: Tensor | None = None,
) -> EpisodeInputs:
    """Everything of an episode that does not depend on trained weights.

    query: N block maps [B, C_i, H, W]; support: N block maps [B, K, C_i, H, W]; support_mask [B, K, S, S] in {0, 1, 255} (255 counts
    as background); text [B, T]; base_logits [B, 1 + n, H, W], the frozen base learner's of the query; base_index [B], in training: the
    episode's class among the base classes.
    """
    shots = support_mask.shape[:2]
    side = query[0].shape[-1]
    queries = backbone.levels(query)
    supports = [level.unflatten(0, shots) for level in backbone.levels([block.flatten(0, 1) for block in support])]
    low, mid, high = supports
    on = support_mask == 1
    mask = resize_mask(on, side)  # [B, K, H, W]
    prior = spm if settings.prior == "spm" else pfenet_prior
    return EpisodeInputs(
        query_mid=queries.mid,
        support_mid=mid,
        mask=mask,
        foreground=nearest_mask(on.flatten(0, 1), side).unflatten(0, shots),
        prior=prior(queries.high, high, mask),
        correlations=correlation_maps(query, support, mask) if settings.tdc else None,
        psi=dissimilarity(queries.low, low),
        base_logits=base_logits,
        base=base_foreground(base_logits, base_index),
        text=text,
    )
