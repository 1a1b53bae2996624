"""FEM, the feature enrichment decoder (PFENet): four scales, fine to coarse, each fed by the finer one."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symnet.model.layers import classifier, two_convolutions
from symnet.model.resize import pool, resize


class Decoded(NamedTuple):
    """meta [B, 2, H, W]; inner: one [B, 2, s, s] a scale; logits. pyramid: what is joined, one [B, C, H, W] a scale."""

    meta: Tensor
    inner: list[Tensor]
    pyramid: list[Tensor]


class Decoder(nn.Module):
    """No norm layers, and no biases but in the last convolutions."""

    def __init__(self, channels: int, hyper: int, scales: tuple[int, ...]) -> None:
        super().__init__()
        self.scales = scales
        self.merge = nn.ModuleList(nn.Conv2d(2 * channels + hyper + 1, channels, 1, bias=False) for _ in scales)
        self.across = nn.ModuleList(nn.Conv2d(2 * channels, channels, 1, bias=False) for _ in scales[1:])
        self.refine = nn.ModuleList(two_convolutions(channels) for _ in scales)
        self.inner = nn.ModuleList(classifier(channels) for _ in scales)
        self.join = nn.Conv2d(channels * len(scales), channels, 1, bias=False)
        self.refine_joined = two_convolutions(channels)
        self.classify = classifier(channels)

    def forward(self, query: Tensor, prototype: Tensor, hyper: Tensor | None, priors: Sequence[Tensor], with_inner: bool = True) -> Decoded:
        """query [B, C, H, W], prototype [B, C], hyper [B, N', H, W] or None, priors: one [B, 1, s, s], or one a scale."""
        size = query.shape[-1]

        def entering(position: int, scale: int) -> Tensor:
            prior = priors[position] if len(priors) > 1 else priors[0]
            maps = [resize(x, scale) for x in (hyper, prior) if x is not None]
            return self.merged(position, query if scale == size else pool(query, scale), prototype, maps)

        return self.enriched(entering, size, with_inner)

    def merged(self, position: int, query: Tensor, prototype: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Query [B, C, s, s], prototype [B, C] and maps [B, ., s, s] at the scale of that place -> [B, C, s, s]."""
        # the prototype is the same everywhere: its share of the 1x1 convolution is a bias
        channels, weight = query.shape[1], cast(Tensor, self.merge[position].weight)
        bias = prototype @ weight[:, channels : 2 * channels, 0, 0].T  # [B, C]
        x = F.conv2d(torch.cat([query, *maps], 1), torch.cat([weight[:, :channels], weight[:, 2 * channels :]], 1))
        return F.relu(x + bias[:, :, None, None])

    def enriched(self, entering: Callable[[int, int], Tensor], size: int, with_inner: bool) -> Decoded:
        """What there is after the merging. entering: of the place and side of a scale, what it works on, [B, C, s, s]; size: H."""
        spread: list[Tensor] = []
        inner: list[Tensor] = []
        for position, scale in enumerate(self.scales):
            x = entering(position, scale)
            if position:
                x = x + F.relu(self.across[position - 1](torch.cat([x, resize(spread[-1], scale)], 1)))
            x = x + self.refine[position](x)
            if with_inner:
                inner.append(self.inner[position](x))  # [B, 2, s, s]
            spread.append(resize(x, size))
        x = F.relu(self.join(torch.cat(spread, 1)))  # [B, C, H, W]
        x = x + self.refine_joined(x)
        return Decoded(self.classify(x), inner, spread)
