"""Counting pixels: predictions against truth, per class, as integers that are summed where they are made.

What is resized is the lead, the logit of the foreground less that of the background: resizing is linear, so it is half the work of resizing
both, and a pixel is foreground where the lead is positive.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from symnet.data.transforms import fitted_size
from symnet.model.resize import interpolation_matrix, resize
from symnet.protocols import SCORINGS
from symnet.runtime import send

IGNORE = 255
WARPED = 400  # HSNet's square, to which image and mask are stretched


def of_class(mask: Tensor, wanted: Tensor) -> Tensor:
    """Index masks [n, ...] and a class each [n] -> uint8 in {0, 1, 255}."""
    inside, outside = sides(mask, wanted)
    return inside.to(torch.uint8) | ((~(inside | outside)).to(torch.uint8) * IGNORE)


def warp(mask: Tensor) -> Tensor:
    """An index mask [h, w], by its nearest pixels: [400, 400]."""
    return F.interpolate(mask[None, None], (WARPED, WARPED), mode="nearest")[0, 0]


def sides(mask: Tensor, wanted: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Where the object is, and where it is not, bool [n, ...]: what is ignored is in neither.

    Of uint8 masks in {0, 1, 255}; with a class each, wanted [n], of index masks. By exclusive or: on a CPU a comparison of bytes with one
    value takes eight times as long.
    """
    own = 1 if wanted is None else wanted.to(mask.dtype).view(-1, *[1] * (mask.ndim - 1))
    inside = ~(mask ^ own).bool()
    return inside, (mask ^ IGNORE).bool() & ~inside


def confusion(predicted: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """bool [n, O, h, w], of truth [n, h, w] -> int64 [n, O, 4]: true and false positives, false and true negatives."""
    predicted, inside, outside = predicted.flatten(2), inside.flatten(1), outside.flatten(1)
    # sums of int32: on a CPU those of int64 take half as long again
    there, elsewhere = (on.sum(1, dtype=torch.int32).unsqueeze(1) for on in (inside, outside))  # [n, 1]
    hits, wrong = ((predicted & on.unsqueeze(1)).sum(2, dtype=torch.int32) for on in (inside, outside))  # [n, O]
    return torch.stack([hits, wrong, there - hits, elsewhere - wrong], -1).long()


@dataclass(frozen=True)
class Originals:
    """Index masks of a batch's queries at original size, on the device. Neighbours of one size are scored together."""

    groups: list[Tensor]  # [n, h, w] each, in the order of the batch
    warped: Tensor  # [B, 400, 400]

    @classmethod
    def of(cls, masks: Sequence[tuple[Tensor, Tensor]], device: torch.device) -> "Originals":
        """masks: of each query, on the host, as it is and warped."""
        groups = [torch.stack([mask for mask, _ in group]) for _, group in groupby(masks, lambda pair: pair[0].shape)]
        return cls([send(group, device) for group in groups], send(torch.stack([warped for _, warped in masks]), device))


class Counts:
    """[tp, fp, fn, tn] per scoring, output and key, all on the device until they are asked for: no batch waits for it.

    A key is what an episode counts for: its class, or itself. Sums of integers: the order of episodes cannot matter.
    """

    def __init__(self, outputs: Sequence[str], keys: int, device: torch.device) -> None:
        self._outputs = tuple(outputs)
        self._sums = torch.zeros(len(SCORINGS), len(self._outputs), keys, 4, dtype=torch.int64, device=device)
        self._seen: dict[str, set[int]] = {scoring: set() for scoring in SCORINGS}

    def add(self, lead: Tensor, truth: Tensor, classes: Sequence[int], keys: Sequence[int], originals: Originals | None = None) -> None:
        """Score a batch, whole or not at all.

        lead [B, O, H, H]: the outputs', of the padded square at any side; truth [B, S, S] in {0, 1, 255}; classes, keys: of each episode;
        originals: their queries' masks, to score at the original size and warped to 400x400 as well.
        """
        assert lead.shape[0] == len(classes) == len(keys)
        assert lead.shape[1] == len(self._outputs)
        size = truth.shape[-1]
        found = {"padded": confusion(foreground(resize(lead, size)), *sides(truth))}
        if originals is not None:
            found |= _at_original(lead, size, originals, send(torch.tensor(classes), lead.device))
        counts = torch.stack([found[scoring] for scoring in SCORINGS[: len(found)]])  # [scorings, B, O, 4]
        self._sums[: len(found)].index_add_(2, send(torch.tensor(keys), lead.device), counts.transpose(1, 2))
        for scoring in found:
            self._seen[scoring].update(keys)

    def fetched(self) -> np.ndarray:
        """All sums, int64 [scorings, outputs, keys, 4], the outputs in their order; zeros of what was not scored."""
        return self._sums.cpu().numpy()

    def of(self, scoring: str) -> dict[str, dict[int, list[int]]]:
        """{output: {key: [tp, fp, fn, tn]}} of the keys that had episodes, in order."""
        sums = self._sums[SCORINGS.index(scoring)].tolist()
        seen = sorted(self._seen[scoring])
        return {output: {key: sums[self._outputs.index(output)][key] for key in seen} for output in sorted(self._outputs) if seen}


def lead_of(logits: Tensor) -> Tensor:
    """Logits [..., 2, h, w] -> [..., h, w] float32: above 0 is foreground."""
    background, foreground = logits.float().unbind(-3)
    return foreground - background


def foreground(lead: Tensor) -> Tensor:
    """bool. A tie is background."""
    return lead > 0


def unfitted(lead: Tensor, size: int, placed: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Of a square of side `size`, given at any side: its placed part at another (height, width). [..., H, H] -> [..., h, w].

    What `resize` to the square and `unfit` from there give. Two resizings in a row are one matrix along each side.
    """
    rows, columns = (_back(lead.shape[-1], size, *pair, lead.device) for pair in zip(placed, target, strict=True))
    return rows @ lead @ columns.T


@functools.lru_cache(maxsize=256)
def _back(side: int, size: int, placed: int, target: int, device: torch.device) -> Tensor:
    """[target, side]: the weights of samples along a side of the square in each pixel of what is placed there."""
    with torch.inference_mode(False), torch.no_grad():
        square = interpolation_matrix(side, size, device, torch.float64)[:placed]
        return F.interpolate(square.T[None], target, mode="linear", align_corners=False)[0].T.float().contiguous()


def _at_original(lead: Tensor, size: int, originals: Originals, classes: Tensor) -> dict[str, Tensor]:
    """[B, O, 4] of the two scorings that undo the square of side `size`: of each image its placed part is resized, once for all outputs."""
    found: dict[str, list[Tensor]] = {"original": [], str(WARPED): []}
    start = 0
    for masks in originals.groups:
        stop = start + len(masks)
        placed = fitted_size(masks.shape[1], masks.shape[2], size)
        for scoring, truth in (("original", masks), (str(WARPED), originals.warped[start:stop])):
            predicted = foreground(unfitted(lead[start:stop], size, placed, (truth.shape[1], truth.shape[2])))  # [n, O, h, w]
            found[scoring].append(confusion(predicted, *sides(truth, classes[start:stop])))
        start = stop
    return {scoring: torch.cat(counts) for scoring, counts in found.items()}
