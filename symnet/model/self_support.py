"""SSP's matcher: prototypes of the support find parts of the query, whose own prototypes find the rest. It has no parameters.

A prototype is a vector [B, C], or a map [B, C, H, W] of one for every position.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from symnet.model.numbers import in_format
from symnet.model.prototypes import masked_mean, region_weights
from symnet.model.resize import resize_mask

AREA, LENGTH = 1e-5, 1e-8  # added to an area; the least length of a vector in a cosine
SCALE, SHARPNESS = 10.0, 2.0  # of cosines that are logits; that are weights
FOREGROUND, BACKGROUND = 0.7, 0.6  # probabilities from which on a position is taken for one
BUDGET = 1 << 26  # weights of positions that are made at once


def pooled(features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Foreground and background prototype, [n, C] each: features [n, C, H, W], mask [n, S, S] in {0, 1, 255}."""
    flat, found = features.flatten(2), []
    for label in (1, 0):
        weight = resize_mask(mask == label, features.shape[-1]).flatten(1).to(flat.dtype)  # [n, HW]
        found.append(torch.bmm(flat, weight.unsqueeze(2)).squeeze(2) / (weight.sum(1, keepdim=True) + AREA))
    return found[0], found[1]


def match(unit: Tensor, foreground: Tensor, background: Tensor) -> Tensor:
    """Logits [n, 2, H, W] of features of length 1, [n, C, H, W], by their cosines with two prototypes."""
    cosines = []
    for prototype in (background, foreground):
        other = prototype if prototype.dim() == 4 else prototype[..., None, None]
        cosines.append((unit * of_length_one(other)).sum(1))
    return SCALE * torch.stack(cosines, 1)


def of_length_one(vectors: Tensor) -> Tensor:
    """[n, C, ...] -> the same, of length 1 along C."""
    return F.normalize(vectors, dim=1, eps=LENGTH)


@dataclass(frozen=True)
class Own:
    """The query's own prototypes."""

    foreground: Tensor  # [B, C]
    background: Tensor  # [B, C]
    adaptive: Tensor  # [B, C, H, W]: of the background, weighted anew for every position


def own_prototypes(features: Tensor, unit: Tensor, logits: Tensor, dtype: torch.dtype) -> Own:
    """Of positions that are surely foreground or background, or else of the 12 that are most so. dtype: of the large products."""
    probability = logits.detach().softmax(1)[:, 1].flatten(1)  # [B, HW], of foreground; of background it is the rest
    inside, outside, _ = region_weights(probability, FOREGROUND, 1 - BACKGROUND, 0, 0)  # the third region is Sym-Net's alone
    flat = features.flatten(2)
    adaptive = gathered(unit.flatten(2), flat, outside, dtype).view_as(features)
    return Own(masked_mean(flat, inside.float()), masked_mean(flat, outside.float()), adaptive)


def gathered(unit: Tensor, features: Tensor, chosen: Tensor, dtype: torch.dtype) -> Tensor:
    """For every position the mean [B, C, P] of the features of chosen ones, weighted by the softmax of 2 x cosine.

    unit, features [B, C, P]; chosen [B, P]. The weights [B, P, P] are made in pieces, and anew in the backward.
    """
    shut = torch.zeros_like(chosen, dtype=unit.dtype).masked_fill(~chosen, -torch.inf).unsqueeze(1)  # [B, 1, P]

    def gather(rows: Tensor) -> Tensor:
        with in_format(dtype, rows.device):
            cosine = torch.bmm(rows.transpose(1, 2), unit)  # [B, p, P]
            weight = (SHARPNESS * cosine + shut).softmax(2)  # in the format of `shut`
            return torch.bmm(features, weight.transpose(1, 2)).to(features.dtype)  # [B, C, p]

    pieces = unit.split(max(1, BUDGET // chosen.numel()), 2)
    return torch.cat([checkpoint(gather, rows, use_reentrant=False, preserve_rng_state=False) for rows in pieces], 2)


@dataclass(frozen=True)
class SelfSupport:
    """At feature side H."""

    prediction: Tensor  # [B, 2, H, W]
    passes: list[Tensor]  # [B, 2, H, W] each: by the support's prototypes, by the mixed ones, by those of the refinement
    own: list[Own]  # found in all of them but the last


def self_support(features: Tensor, foreground: Tensor, background: Tensor, refine: bool, dtype: torch.dtype) -> SelfSupport:
    """Segment queries of features [B, C, H, W] by the support's prototypes [B, C]. refine: support themselves twice.

    dtype: of the large products; the rest is in that of the features.
    """
    unit = of_length_one(features)
    first = match(unit, foreground, background)
    own = own_prototypes(features, unit, first, dtype)
    inside1, outside1 = _mixed(foreground, own)
    second = match(unit, inside1, outside1)
    if not refine:
        return SelfSupport(second, [first, second], [own])
    again = own_prototypes(features, unit, second, dtype)
    inside2, outside2 = _mixed(foreground, again)
    inside2 = 0.5 * foreground + 0.2 * inside1 + 0.3 * inside2
    outside2 = 0.5 * background[..., None, None] + 0.2 * outside1 + 0.3 * outside2
    third = match(unit, inside2, outside2)
    return SelfSupport(0.7 * third + 0.3 * second, [first, second, third], [own, again])


def _mixed(foreground: Tensor, own: Own) -> tuple[Tensor, Tensor]:
    """Prototypes of both: of the foreground [B, C], of the background [B, C, H, W], the query's alone."""
    return 0.5 * foreground + 0.5 * own.foreground, 0.3 * own.background[..., None, None] + 0.7 * own.adaptive
