"""The base learner's head (PSPNet) and its vote on what is no novel object (BAM)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symnet.model.resize import resize

BINS = (1, 2, 3, 6)


class PSPHead(nn.Module):
    """Pyramid pooling over bins 1, 2, 3, 6 and a classifier over background and the base classes."""

    def __init__(self, channels: int, classes: int, width: int = 512) -> None:
        super().__init__()
        part = channels // len(BINS)
        self.pyramid = nn.ModuleList(nn.Sequential(nn.Conv2d(channels, part, 1, bias=False), nn.BatchNorm2d(part)) for _ in BINS)
        self.classify = nn.Sequential(
            nn.Conv2d(channels + part * len(BINS), width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.1),
            nn.Conv2d(width, classes, 1),
        )

    def forward(self, high: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, 1 + base classes, H, W]."""
        size = high.shape[-1]
        pooled = [resize(F.relu(branch(F.adaptive_avg_pool2d(high, b))), size) for b, branch in zip(BINS, self.pyramid, strict=True)]
        return self.classify(torch.cat([high, *pooled], 1))


def base_foreground(logits: Tensor, base_index: Tensor | None = None) -> Tensor:
    """p_base, the probability of any base class: [B, 1+n, H, W] -> [B, H, W] in [0, 1].

    base_index [B] (0..n-1; training): the episode's own class, left out of the sum.
    """
    probabilities = logits.float().softmax(1)
    total = probabilities[:, 1:].sum(1)
    if base_index is None:
        return total
    own = (base_index + 1).view(-1, 1, 1, 1).expand(-1, 1, *logits.shape[2:])
    return total - probabilities.gather(1, own).squeeze(1)


class Ensemble(nn.Module):
    """Join the meta learner's probabilities with psi and the base learner's vote, by two 1x1 convolutions started at [1, 0]."""

    def __init__(self) -> None:
        super().__init__()
        self.with_psi = nn.Conv2d(2, 1, 1, bias=False)
        self.with_base = nn.Conv2d(2, 1, 1, bias=False)
        with torch.no_grad():
            for layer in (self.with_psi, self.with_base):
                layer.weight.copy_(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))

    def forward(self, meta: Tensor, psi: Tensor, base: Tensor) -> Tensor:
        """Meta logits [B, 2, H, W], psi [B], p_base [B, H, W] -> maps [B, 2, H, W], used as logits."""
        probabilities = meta.float().softmax(1)
        psi_map = psi.view(-1, 1, 1, 1).expand(-1, 1, *meta.shape[2:])
        background, foreground = (self.with_psi(torch.cat([p, psi_map], 1)) for p in probabilities.split(1, 1))  # [B, 1, H, W]
        return torch.cat([self.with_base(torch.cat([background, base.unsqueeze(1)], 1)), foreground], 1)
