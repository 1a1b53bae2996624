"""HPA's prototype activation: of every position, which prototype it is most like, and how much, if that is one of the target's."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = 8


class Activated(NamedTuple):
    """What wins where."""

    probability: Tensor  # [B, 1, H, W]: the winner's relation, 0 where it is none of the target's
    prototypes: Tensor  # [B, C, H, W]: the winner


class PrototypeActivation(nn.Module):
    """A relation is learned: query and prototype merged by 1x1 and ReLU, one number, its sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.merge, self.score = nn.Conv2d(2 * channels, HIDDEN, 1), nn.Conv2d(HIDDEN, 1, 1)

    def relations(self, query: Tensor, prototypes: Tensor) -> Tensor:
        """query [B, C, H, W], prototypes [B, P, C] -> [B, P, H, W] in [0, 1]; in float32, so that few of them are equal."""
        of_query, of_prototype = self.merge.weight.split(query.shape[1], 1)
        shares = (prototypes @ of_prototype[:, :, 0, 0].T)[..., None, None]  # [B, P, 8, 1, 1]: the same everywhere
        hidden = F.relu(F.conv2d(query, of_query, self.merge.bias).unsqueeze(1) + shares)  # [B, P, 8, H, W]
        return self.score(hidden.flatten(0, 1)).unflatten(0, prototypes.shape[:2]).squeeze(2).float().sigmoid()

    def forward(self, query: Tensor, target: Tensor, others: Tensor, excluded: Tensor) -> Activated:
        """query [B, C, H, W]; prototypes of the target [B, m, C] and of other classes [n, C], but for those that are excluded, bool [B, n].

        Which wins is decided without gradient; of equals the target's.
        """
        prototypes = torch.cat([target, others.expand(len(query), -1, -1)], 1)  # [B, P, C]
        relations = self.relations(query, prototypes)
        excluded = F.pad(excluded, (target.shape[1], 0))[:, :, None, None]  # [B, P, 1, 1]
        best, winner = relations.masked_fill(excluded, -1).max(1, keepdim=True)  # [B, 1, H, W]
        every = torch.arange(prototypes.shape[1], device=query.device)[:, None, None]
        chosen = (winner == every).to(prototypes.dtype)  # [B, P, H, W]: a product's gradient is summed in one order, a gather's is not
        return Activated(best * (winner < target.shape[1]), torch.einsum("bphw,bpc->bchw", chosen, prototypes))
