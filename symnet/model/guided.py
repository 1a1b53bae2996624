"""What a trained head is that reads reduced mid features beside a prior mask: Sym-Net's, PFENet's, BAM's and others."""

from typing import Any

import torch
from torch import Tensor, nn

from symnet.model.divisors import Divisors
from symnet.model.episode import EpisodeInputs


class GuidedHead(nn.Module):
    """A head: from `EpisodeInputs` to an output that has a method's `outputs` as attributes, logits [B, 2, H, W]."""

    reduce_query: nn.Module  # [B, Cm, H, W] -> [B, C, H, W]
    reduce_support: nn.Module

    @property
    def reductions(self) -> tuple[nn.Module, ...]:
        """A query's and a support's; or one that is both."""
        return self.reduce_query, self.reduce_support

    def reduced(self, episode: EpisodeInputs) -> tuple[Tensor, Tensor]:
        """Mid features of queries [B, C, H, W] and of supports [BK, C, H, W]."""
        query, support = episode.query_mid, episode.support_mid.flatten(0, 1)
        return (query, support) if episode.reduced else (self.reduce_query(query), self.reductions[-1](support))

    def losses(self, output: Any, query_mask: Tensor, divisors: Divisors | None = None) -> dict[str, Tensor]:
        """The parts of the objective, scalars. query_mask [B, S, S] int64 in {0, 1, 255}; divisors: of the batch that this is a part of."""
        raise NotImplementedError

    def objective(self, parts: dict[str, Tensor]) -> Tensor:
        """Their sum."""
        return torch.stack(list(parts.values())).sum()
