"""BAM's decoder: atrous spatial pyramid pooling at one scale."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symnet.model.layers import classifier, two_convolutions

DILATIONS = (6, 12, 18)


class ASPP(nn.Module):
    """Five views of a position side by side: the image's mean, the position, and 3x3 neighbourhoods 6, 12 and 18 positions wide."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = (nn.Conv2d(channels, channels, 3, padding=d, dilation=d) for d in DILATIONS)
        branches = [nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1), *wide]
        for branch in branches:
            nn.init.kaiming_normal_(branch.weight)
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 5 C, H, W]."""
        mean, *local = self.branches
        whole = F.relu(mean(x.mean((2, 3), keepdim=True))).expand_as(x)
        return torch.cat([whole, *(F.relu(branch(x)) for branch in local)], 1)


class ASPPDecoder(nn.Module):
    """Query, prototype and prior merged; ASPP; a residual; two logits. No norm layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.merge = nn.Conv2d(2 * channels + 1, channels, 1, bias=False)
        self.aspp = ASPP(channels)
        self.join = nn.Conv2d(5 * channels, channels, 1, bias=False)
        self.refine = two_convolutions(channels)
        self.classify = classifier(channels)

    def forward(self, query: Tensor, prototype: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """query [B, C, H, W], prototype [B, C], prior [B, 1, H, W] -> logits [B, 2, H, W], ASPP's [B, 5 C, H, W]."""
        tiled = prototype[:, :, None, None].expand(-1, -1, *query.shape[2:])
        views = self.aspp(F.relu(self.merge(torch.cat([query, tiled, prior], 1))))
        x = F.relu(self.join(views))
        return self.classify(x + self.refine(x)), views
