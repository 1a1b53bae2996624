"""APA: prototypes of support and query, aligned with the class vector (eqs. 4-11)."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

FALLBACK = 12  # positions taken when a threshold selects none


def masked_mean(features: Tensor, weight: Tensor) -> Tensor:
    """Mean over positions: features [B, C, P], weight [B, P] -> [B, C]; zero where no weight is."""
    total = torch.bmm(features, weight.to(features.dtype).unsqueeze(2)).squeeze(2)
    return total / weight.sum(1, keepdim=True).clamp(min=1).to(torch.promote_types(features.dtype, torch.float32))


def support_prototype(features: Tensor, mask: Tensor, variant: Literal["paper", "released"]) -> Tensor:
    """Masked average pooling: features [B, C, H, W], mask [B, H, W] in [0, 1] -> [B, C].

    `paper` (eq. 4): mean over positions whose resized mask is 1. `released`: weighted by the resized mask, 5e-4 in the area.
    """
    flat, weight = features.flatten(2), mask.flatten(1)
    if variant == "paper":
        return masked_mean(flat, (weight == 1).float())
    weight = weight.to(features.dtype)
    return torch.bmm(flat, weight.unsqueeze(2)).squeeze(2) / (weight.sum(1, keepdim=True) + 5e-4)


class Regions(NamedTuple):
    """Means of the query's reduced features, each [B, C]: foreground (eq. 5), background (eq. 10), hard positives (eq. 11)."""

    foreground: Tensor
    background: Tensor
    hard: Tensor


def region_weights(prior: Tensor, tau1: float, tau2: float, tau3: float, tau4: float) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of the three regions: prior [B, P] -> three bool [B, P] (foreground, background, hard positives).

    Where a threshold selects none: the 12 highest, the 12 lowest, the 12 around the median rank (all, where P < 12).
    """
    positions = prior.shape[1]
    count = min(FALLBACK, positions)
    rank = prior.argsort(1)
    middle = max(positions // 2 - count // 2, 0)

    def marked(indices: Tensor) -> Tensor:
        return torch.zeros_like(prior, dtype=torch.bool).scatter_(1, indices, True)

    def choose(selected: Tensor, fallback: Tensor) -> Tensor:
        return torch.where(selected.any(1, keepdim=True), selected, marked(fallback))

    return (
        choose(prior > tau1, rank[:, positions - count :]),
        choose(prior < tau2, rank[:, :count]),
        choose((prior > tau3) & (prior < tau4), rank[:, middle : middle + count]),
    )


def query_regions(features: Tensor, prior: Tensor, tau1: float, tau2: float, tau3: float, tau4: float) -> Regions:
    """features [B, C, H, W], prior [B, H, W] -> the three means."""
    flat = features.flatten(2)
    return Regions(*(masked_mean(flat, weight) for weight in region_weights(prior.flatten(1), tau1, tau2, tau3, tau4)))


class Alignment(nn.Module):
    """Attention of a prototype and the class vector over the masked features (eqs. 7-8). One module serves query and support.

    `paper`: separate keys and values, scaled by sqrt(channels). `released`: values are the keys, the score passes through one more
    matrix and is not scaled. FFN = Linear + Dropout(0.1); the prototype is added. Masked-out positions stay in the softmax with their
    zero features.
    """

    def __init__(self, channels: int, text: int, variant: Literal["paper", "released"]) -> None:
        super().__init__()
        self.query = nn.Linear(channels + text, channels, bias=False)
        self.key = nn.Conv2d(channels, channels, 1, bias=False)
        if variant == "paper":
            self.value = nn.Conv2d(channels, channels, 1, bias=False)
        else:
            bound = channels**-0.5
            self.score = nn.Parameter(torch.empty(channels, channels).uniform_(-bound, bound))
        self.project = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(0.1)
        self.variant = variant

    def forward(self, features: Tensor, prototype: Tensor, text: Tensor | None) -> Tensor:
        """features [B, C, H, W] (already masked), prototype [B, C], text [B, T] -> augmented prototype [B, C]."""
        parts = [prototype] if text is None else [prototype, text]  # eq. 6; the released code puts the class vector first
        query = self.query(torch.cat(parts if self.variant == "paper" else parts[::-1], 1))  # [B, C]
        query = query * prototype.shape[1] ** -0.5 if self.variant == "paper" else query @ self.score
        # Keys and values are linear in the features: their 1x1 convolutions meet the one query and the one mean, not every position.
        flat, key = features.flatten(2), self.key.weight[:, :, 0, 0]  # [B, C, HW], [C, C]
        value = self.value.weight[:, :, 0, 0] if self.variant == "paper" else key
        attention = torch.bmm((query @ key).unsqueeze(1), flat).softmax(2)  # [B, 1, HW]
        aggregated = torch.bmm(attention, flat.transpose(1, 2)).squeeze(1) @ value.T  # [B, C]
        return self.dropout(self.project(aggregated)) + prototype
