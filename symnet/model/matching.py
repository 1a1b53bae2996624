"""HDMNet's learner: query and supports by themselves at three sides, then matched by cosine attention, joined from coarse to fine."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from symnet.model.layers import FixedBatchNorm
from symnet.model.mix import STAGES, Layer, Stage, maps, tokens
from symnet.model.numbers import wide
from symnet.model.resize import nearest_mask, resize

HEADS = 2  # of cross-attention
TEMPERATURE = 0.1  # of its cosines
BUDGET = 1 << 26  # of its weights that are made at once
FAR = -1e9  # the truth's score outside the object

# The beginnings of its names in the released code, and here.
_LAYERS = (("match_layers.{}.0.", "cross.{}."), *((f"down_sample_layers.{{}}.{n}.", f"stages.{{}}.layers.{n - 1}.") for n in (1, 2)))
_PARTS = (
    ("attn.attn.linear_q.", "attend.query."),
    ("attn.attn.linear_k.", "attend.key."),
    ("attn.attn.linear_v.", "attend.value."),
    ("attn.attn.linear_o.", "attend.out."),
    ("attn.sr.", "reduce."),
    ("attn.norm.", "reduced_norm."),
    ("ffn.layers.", "mix."),
    ("", ""),
)
RELEASED = (
    ("parse_layers.", "parse."),
    ("cls.", "classify."),
    ("match_layers.{}.1.conv.", "fuse.{}."),
    ("match_layers.{}.1.bn.", "fuse_norm.{}."),
    ("down_sample_layers.{}.0.projection.", "stages.{}.embed."),
    ("down_sample_layers.{}.0.norm.", "stages.{}.norm."),
    ("down_sample_layers.{}.3.", "stages.{}.last_norm."),
    *((layer + part, ours + name) for layer, ours in _LAYERS for part, name in _PARTS),
)


class CrossLayer(Layer):
    """Each support position shares its value out among the query's positions, by a softmax of cosines over those.

    As in the released code: over the query and not over the support, and positions of background give nothing, the softmax unchanged.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, HEADS)

    def forward(self, query: Tensor, support: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor]:
        """query [B, C, h, w], support tokens [B, M, C] of all shots, foreground bool [B, M] -> [B, C, h, w], correlation map [B, h, w].

        The map is the mean of the scores before the softmax, over foreground and heads: of inner products, so an inner product with a mean.
        """
        x, side = tokens(query), query.shape[-1]
        queries, keys, values = self.attend.split(self.norm1(x), self.norm1(support))
        queries, keys = F.normalize(wide(queries), dim=3) / TEMPERATURE, F.normalize(wide(keys), dim=3)
        given = foreground[:, None, :, None].to(keys.dtype)  # [B, 1, M, 1]
        mean = (keys * given).sum(2, keepdim=True) / (given.sum(2, keepdim=True) + 1e-9)  # [B, 2, 1, d]
        correlation = (queries * mean).sum(3).mean(1).unflatten(1, (-1, side))
        return maps(self.after(x, share_out(queries, keys, values * given), side), side), correlation


def share_out(query: Tensor, key: Tensor, value: Tensor, budget: int = BUDGET) -> Tensor:
    """[B, h, N, d]: at each query position the sum over M keys of their values, weighted by softmax over the N queries of <query, key>.

    query [B, h, N, d]; key, value [B, h, M, d]. Keys do not know of one another: where there are more than `budget` weights, they are made
    in pieces, and anew in the backward.
    """

    def some(key: Tensor, value: Tensor) -> Tensor:
        return (query @ key.transpose(2, 3)).softmax(2) @ value

    step = max(1, budget // query.shape[:3].numel())
    if step >= key.shape[2]:
        return some(key, value)
    found = torch.zeros_like(query)
    for piece in zip(key.split(step, 2), value.split(step, 2), strict=True):
        found = found + checkpoint(some, *piece, use_reentrant=False, preserve_rng_state=False)
    return found


class Matched(NamedTuple):
    """`logits` [B, 2, H, W]; of each side, finest first: what matched, correlation maps, and the supports' own maps."""

    logits: Tensor
    matched: list[Tensor]  # [B, C, h, w]
    correlations: list[Tensor]  # [B, h, w]
    support: list[Tensor]  # [BK, C, h, w]


class Matching(nn.Module):
    """3.3 M parameters at 64 channels. Stages are the same for query and supports; batch norm keeps its statistics, as released."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        numbers = range(len(STAGES))
        self.stages = nn.ModuleList(Stage(channels, number) for number in numbers)
        self.cross = nn.ModuleList(CrossLayer(channels) for _ in numbers)
        self.fuse = nn.ModuleList(nn.Conv2d(channels + 2, channels, 3, padding=1, bias=False) for _ in numbers)
        self.fuse_norm = nn.ModuleList(FixedBatchNorm(channels) for _ in numbers)
        self.parse = nn.ModuleList(nn.Sequential(*_parse(channels, channels), FixedBatchNorm(channels), nn.ReLU()) for _ in numbers)
        self.classify = nn.Sequential(*_parse(channels, 2))

    def forward(self, query: Tensor, support: Tensor, foreground: Tensor, similarity: Tensor) -> Matched:
        """query [B, C, H, W], support [BK, C, H, W], foreground bool [B, K, S, S], similarity [B, 2, H, W] that each side reads resized."""
        shots, masks, count = foreground.shape[:2], foreground.flatten(0, 1), len(query)
        both = torch.cat([query, support])
        fused, out, correlations, supports = [], [], [], []
        for stage, cross, fuse, norm in zip(self.stages, self.cross, self.fuse, self.fuse_norm, strict=True):
            both = stage(both)
            own, side = both[count:], both.shape[-1]
            asked = tokens(own).unflatten(0, shots).flatten(1, 2)  # [B, K hw, C]
            inside = nearest_mask(masks, side).unflatten(0, shots).flatten(1)  # [B, K hw]
            matched, correlation = cross(both[:count], asked, inside)
            fused.append(F.relu(norm(fuse(torch.cat([matched, resize(similarity, side)], 1)))))
            out.append(matched)
            correlations.append(correlation)
            supports.append(own)
        x = self.parse[-1](fused[-1])
        for finer, parse in zip(fused[-2::-1], list(self.parse)[-2::-1], strict=True):
            x = resize(x, finer.shape[-1], corners=False)
            x = x + parse(finer + x)
        return Matched(self.classify(x), out, correlations, supports)


def _parse(channels: int, out: int) -> list[nn.Module]:
    """Three convolutions over four times the channels, batch norm between them."""
    wider = 4 * channels
    first, second, third = nn.Conv2d(channels, wider, 1), nn.Conv2d(wider, wider, 3, padding=1), nn.Conv2d(wider, out, 1)
    return [first, FixedBatchNorm(wider), second, FixedBatchNorm(wider), third]


def distillation(correlations: list[Tensor], query_mask: Tensor) -> Tensor:
    """How far each correlation map is from its teacher: the mean over maps of KL divergences, summed over images, a scalar.

    correlations: [B, h, w] each, finest first; the coarsest learns from the truth, query_mask [B, S, S] in {0, 1, 255}, of which 255 is
    background; each other from the one before, resized. Both are distributions over positions.
    """
    teacher = torch.where(query_mask == 1, 1.0, FAR)  # [B, S, S]
    parts = []
    for student in reversed(correlations):
        t = resize(teacher.unsqueeze(1), student.shape[-1], corners=False).flatten(1).softmax(1)  # [B, hw]
        s = student.flatten(1).softmax(1)
        parts.append((t * ((t + 1e-12).log() - (s + 1e-12).log())).sum())
        teacher = student.detach()
    return torch.stack(parts).mean()
