"""What the losses of a batch are divided by: its masks tell, before any forward, so that it can be computed in parts."""

from dataclasses import dataclass

import torch
from torch import Tensor

from symnet.model.resize import nearest_mask
from symnet.model.segmentation import IGNORE


@dataclass(frozen=True)
class Divisors:
    """Of a whole batch. With them the losses of its micro-batches add up to its own, and so do the gradients.

    Means over each micro-batch would not: micro-batches differ in known pixels and in usable supports.
    """

    pixels: Tensor  # scalar: pixels of the query masks that are not 255
    episodes: int  # B
    usable: Tensor  # [K]: what the losses of supports divide by, shot by shot: those with foreground and background, of which triplets are

    def to(self, device: torch.device) -> "Divisors":
        """The same on another device."""
        return Divisors(self.pixels.to(device), self.episodes, self.usable.to(device))


def divisors_of(query_mask: Tensor, support_mask: Tensor, side: int) -> Divisors:
    """Of a batch: query_mask [B, S, S] and support_mask [B, K, S, S] in {0, 1, 255}; `side` H of the features, where triplets are drawn."""
    foreground = nearest_mask((support_mask == 1).flatten(0, 1), side).unflatten(0, support_mask.shape[:2])  # [B, K, H, W]
    return Divisors((query_mask != IGNORE).sum(), len(query_mask), usable(foreground).sum(0))


def usable(foreground: Tensor) -> Tensor:
    """Whether a support has foreground and background, so that a triplet can be drawn: bool [B, K, H, W] -> bool [B, K]."""
    inside = foreground.flatten(2)
    return inside.any(2) & ~inside.all(2)
