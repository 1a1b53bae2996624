"""HPA's channel attention: channels of the query joined by what they have in common, and by what they have in common with the support's."""

import torch
from torch import Tensor, nn

from symnet.model.numbers import exactly, wide


class ChannelAttention(nn.Module):
    """Learns one number, the share of the support, which starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.zeros(1))

    def forward(self, query: Tensor, support: Tensor) -> Tensor:
        """[B, C, H, W] of both -> [B, C, H, W]: the query and what attention adds to it. Features have no gradient; float32 throughout."""
        with exactly(query.device):
            own, other = wide(query).flatten(2), wide(support).flatten(2)  # [B, C, HW]
            joined = attended(own, own) + self.share * attended(other, own)
            return query + (joined / (1 + self.share)).view_as(query)


@torch.no_grad()
def attended(keys: Tensor, values: Tensor) -> Tensor:
    """[B, C, P] of both -> [B, C, P]: of each key the values, weighed by a softmax of how little the key has in common with each.

    As DANet's: the row's maximum less the inner product.
    """
    common = torch.bmm(keys, values.transpose(1, 2))  # [B, C, C]
    return torch.bmm((common.amax(2, keepdim=True) - common).softmax(2), values)
