"""Episodes of noise as `EpisodeBatch`, for methods that read block maps alone."""

import torch
from torch import Tensor

from symnet.backbones.loading import build_backbone
from symnet.methods.base import EpisodeBatch

SIZE, SHOTS = 65, 3


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def noise_batch(size: int = SIZE) -> EpisodeBatch:
    """Two episodes of `SHOTS` shots, block maps of EfficientNet-Lite0, masks with some rows of 255."""
    channels, side = build_backbone("efficientnet_lite0").block_channels, (size - 1) // 8 + 1
    mask = torch.randint(0, 2, (2, 1 + SHOTS, size, size), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    mask[:, 0, :9] = 255
    return EpisodeBatch(
        query=[randn(2, width, side, side, seed=i) for i, width in enumerate(channels)],
        support=[randn(2, SHOTS, width, side, side, seed=50 + i) for i, width in enumerate(channels)],
        query_mask=mask[:, 0],
        support_mask=mask[:, 1:],
        base_logits=None,
        text=torch.zeros(2, 3),
        base_index=torch.tensor([0, 1]),
    )
