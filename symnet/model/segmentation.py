"""The segmentation loss (eq. 14)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from symnet.model.resize import resize

IGNORE = 255


def cross_entropy(logits: Tensor, target: Tensor, pixels: Tensor | None = None) -> Tensor:
    """Mean over the pixels that are not 255; 0 where all are. logits [B, C, h, w] are resized to target [B, S, S] (int64) first.

    pixels: a scalar to divide the sum by in place of their number.
    """
    logits = resize(logits.float(), target.shape[-1])
    total = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
    return total / ((target != IGNORE).sum() if pixels is None else pixels).clamp(min=1)


def mean_cross_entropy(logits: Sequence[Tensor], target: Tensor, pixels: Tensor | None = None) -> Tensor:
    """The mean over the scales of a decoder; arguments as `cross_entropy`, logits [B, C, s, s] each."""
    return torch.stack([cross_entropy(one, target, pixels) for one in logits]).mean()
