"""Cycle-consistent attention (Zhang et al., NeurIPS 2021): queries attend to sampled support positions that agree with their own cycle.

Support position j goes to the query position that scores it highest, and that goes to the support position which it scores highest itself:
if this one has another label than j, j is shut out.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from symnet.model.numbers import exactly, wide

HEADS = 8
SHUT = -10000.0  # added to the score of a position that is shut out: where all are, they still compete
BUDGET = 1 << 24  # elements of scores that are made at once
KEPT = 1 << 26  # elements of weights that may wait for the backward


class Sampled(NamedTuple):
    """M support positions of each episode."""

    places: Tensor  # [B, M] int64, of the N
    foreground: Tensor  # [B, M] bool, the labels that the cycles are checked with
    valid: Tensor  # [B, M] bool: the last ones may be none


def with_both_kinds(foreground: Tensor) -> Tensor:
    """bool [B, K, H, W]: an empty mask gets its four centre positions, a full one loses its corners."""
    height, width = foreground.shape[2:]
    middle, corners = (torch.zeros(height, width, dtype=torch.bool, device=foreground.device) for _ in range(2))
    middle[height // 2 - 1 : height // 2 + 1, width // 2 - 1 : width // 2 + 1] = True
    corners[:: max(height - 1, 1), :: max(width - 1, 1)] = True
    empty, full = ~foreground.any(-1).any(-1)[..., None, None], foreground.all(-1).all(-1)[..., None, None]
    return (foreground | (empty & middle)) & ~(full & corners)


def shuffled(foreground: Tensor) -> Tensor:
    """A key a position, by which they are in random order: bool [B, N] -> int64 [B, N] below 2^32, no two of a row alike.

    A function of the episode's own mask, so that an episode is sampled alike in any batch, on any device. The mixer's constants are the
    usual ones of 32-bit integer hashing, a bijection.
    """
    places = torch.arange(foreground.shape[1], device=foreground.device)
    seed = (foreground * (places + 1)).sum(1, keepdim=True) * foreground.shape[1]
    key = (seed + places) & 0xFFFFFFFF
    for _ in range(2):
        key = ((key ^ (key >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return key ^ (key >> 16)


def sample(foreground: Tensor, keys: Tensor, each: Tensor, room: int, slip: bool = False) -> Sampled:
    """`each` foreground and `each` background positions, those of the lowest keys; of a kind with fewer all, the rest from the other.

    foreground bool [B, N]; keys int64 [B, N] below 2^32; each int64 [B, 1]; room: M, at least what any episode takes. slip: the label of a
    position that was drawn is read at its place among its own kind, from the list of all: a slip of CyCTR's released code. A kind with no
    more than `each` is not drawn from, unless it is the background of an episode whose foreground is not either.
    """
    count = foreground.shape[1]
    inside = foreground.sum(1, keepdim=True)  # [B, 1]
    outside = count - inside
    taken = torch.minimum(inside, torch.maximum(each, 2 * each - outside))
    others = torch.minimum(outside, torch.maximum(each, 2 * each - inside))
    order = (keys + (~foreground).long() * (1 << 32)).argsort(1)  # foreground first
    slot = torch.arange(room, device=keys.device)  # [M]
    rank = torch.where(slot < taken, slot, slot + inside - taken).clamp(max=count - 1)  # [B, M]
    index = order.gather(1, rank)
    labels = foreground
    if slip:
        own_place = torch.where(foreground, foreground.cumsum(1), (~foreground).cumsum(1)) - 1  # [B, N]
        drawn = torch.where(foreground, inside > each, (outside > each) | (inside <= each))
        labels = torch.where(drawn, foreground.gather(1, own_place), foreground)
    return Sampled(index, labels.gather(1, index), slot < taken + others)


@torch.no_grad()
def inconsistent(query: Tensor, key: Tensor, foreground: Tensor, valid: Tensor, budget: int = BUDGET) -> Tensor:
    """Which support positions end their cycle at another label: bool [B, h, M], False where not valid.

    query [B, h, L, d], key [B, h, M, d], foreground, valid bool [B, M]. Scores are made in pieces of at most `budget` elements.
    """
    batch, heads, tokens = key.shape[:3]
    none = ~valid[:, None, None]  # [B, 1, 1, M]
    best = query.new_full((batch, heads, tokens), -torch.inf, dtype=wide(query[:0]).dtype)
    back = torch.zeros(batch, heads, tokens, dtype=torch.int64, device=key.device)
    with exactly(query.device):
        for piece in query.split(max(1, budget // (batch * heads * tokens)), 2):
            score = (wide(piece) @ wide(key).transpose(2, 3)).masked_fill_(none, -torch.inf)  # [B, h, r, M]
            high, row = score.max(2)  # [B, h, M]: of each support position, the best query position here
            back = torch.where(high > best, score.argmax(3).gather(2, row), back)
            best = torch.maximum(best, high)
    mine = foreground.unsqueeze(1).expand(-1, heads, -1)  # [B, h, M]
    return (mine.gather(2, back) != mine) & valid.unsqueeze(1)


class CycleAttention(nn.Module):
    """Attention of 8 heads without biases, from query positions to the sampled support positions that are consistent.

    In training a tenth of the inconsistent ones is let in, and weights and answer pass dropout.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.project = (nn.Linear(channels, channels, bias=False) for _ in range(4))
        self.drop_flags, self.drop_weights, self.drop = nn.Dropout(0.1), nn.Dropout(0.1), nn.Dropout(0.1)

    def forward(self, x: Tensor, support: Tensor, sampled: Sampled) -> tuple[Tensor, Tensor]:
        """x [B, H, W, C], support [B, M, C], the sampled positions' -> answer [B, H, W, C]; which are inconsistent, bool [B, h, M]."""
        query = _split(self.query(x.flatten(1, 2)))  # [B, h, L, d]
        key, value = _split(self.key(support)), _split(self.value(support))  # [B, h, M, d]
        wrong = inconsistent(query, key, sampled.foreground, sampled.valid)
        shut = SHUT * (self.drop_flags(wrong.to(query.dtype)) > 0)
        bias = shut.masked_fill(~sampled.valid.unsqueeze(1), -torch.inf).to(query.dtype).unsqueeze(2)  # [B, h, 1, M]
        found = self._attend(query, key, value, bias)
        return self.drop(self.project(found.transpose(1, 2).flatten(2))).view_as(x), wrong

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """[B, h, L, d]. With dropout on a CPU the library keeps all weights: too many are made in pieces, and anew in the backward."""
        dropout = self.drop_weights.p if self.training else 0.0

        def attend(piece: Tensor) -> Tensor:
            mask = bias.expand(-1, -1, piece.shape[2], -1)
            return F.scaled_dot_product_attention(piece, key, value, mask, dropout)

        if query.device.type != "cpu" or dropout == 0 or bias.numel() * query.shape[2] <= KEPT:
            return attend(query)
        pieces = query.split(max(1, BUDGET // bias.numel()), 2)
        return torch.cat([checkpoint(attend, piece, use_reentrant=False) for piece in pieces], 2)


def _split(x: Tensor) -> Tensor:
    """[B, N, C] -> [B, h, N, C / h]."""
    return x.unflatten(2, (HEADS, -1)).transpose(1, 2)
