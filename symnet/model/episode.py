"""The frozen part: all that a trainable head needs of an episode, computed without gradient from block maps."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from symnet.backbones.base import Backbone
from symnet.config import ModelSettings
from symnet.model.base import base_foreground
from symnet.model.correlation import hyper_correlations
from symnet.model.prior import hpm, pfenet_prior, spm
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
    priors: tuple[Tensor, ...]  # [B, K, s, s] in [0, 1]: one, at side H; of HPM one a decoder scale
    correlations: Tensor | None  # [B, N, H, W], None without TDC
    psi: Tensor  # [B, K]
    base_logits: Tensor  # [B, 1 + n, H, W]
    base: Tensor  # [B, H, W]
    text: Tensor  # [B, T]

    def to(self, device: torch.device) -> "EpisodeInputs":
        """The same on another device."""

        def moved(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(moved(part) for part in value)
            return None if value is None else value.to(device, non_blocking=True)

        return EpisodeInputs(**{f.name: moved(getattr(self, f.name)) for f in fields(self)})


@torch.no_grad()
def freeze_episode(
    backbone: Backbone,
    settings: ModelSettings,
    query: list[Tensor],
    support: list[Tensor],
    support_mask: Tensor,
    text: Tensor,
    base_logits: Tensor,
    scales: Sequence[int],
    base_index: Tensor | None = None,
) -> EpisodeInputs:
    """Everything of an episode that does not depend on trained weights.

    query: N block maps [B, C_i, H, W]; support: N block maps [B, K, C_i, H, W]; support_mask [B, K, S, S] in {0, 1, 255} (255 counts
    as background); text [B, T]; base_logits [B, 1 + n, H, W], the frozen base learner's of the query; scales: the decoder's sides;
    base_index [B], in training: the episode's class among the base classes.
    """
    shots = support_mask.shape[:2]
    queries = backbone.levels(query)
    side = queries.mid.shape[-1]
    supports = [level.unflatten(0, shots) for level in backbone.levels([block.flatten(0, 1) for block in support])]
    low, mid, high = supports
    on = support_mask == 1
    mask = resize_mask(on, side)  # [B, K, H, W]
    return EpisodeInputs(
        query_mid=queries.mid,
        support_mid=mid,
        mask=mask,
        foreground=nearest_mask(on.flatten(0, 1), side).unflatten(0, shots),
        priors=_priors(settings.prior, queries.high, high, mask, scales),
        correlations=hyper_correlations(query, support, on, side) if settings.tdc else None,
        psi=dissimilarity(queries.low, low),
        base_logits=base_logits,
        base=base_foreground(base_logits, base_index),
        text=text,
    )


def _priors(kind: str, query: Tensor, support: Tensor, mask: Tensor, scales: Sequence[int]) -> tuple[Tensor, ...]:
    """The prior masks of `model.prior`, from high-level features."""
    if kind == "hpm":
        return hpm(query, support, mask, scales)
    return ((spm if kind == "spm" else pfenet_prior)(query, support, mask),)
