"""Counting pixels: predictions against truth, per class, as integers."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from symnet.data.transforms import unfit
from symnet.model.resize import resize

IGNORE = 255
WARPED = 400  # HSNet's square, to which image and mask are stretched


def confusion(predicted: Tensor, truth: Tensor) -> Tensor:
    """[n, ...] bool, [n, ...] in {0, 1, 255} -> int64 [n, 4]: true positives, false positives, false negatives, true negatives."""
    predicted, truth = predicted.flatten(1), truth.flatten(1)
    inside, outside = truth == 1, truth == 0
    # sums of int32: on a CPU those of int64 take half as long again
    hits, wrong, there, elsewhere = (on.sum(1, dtype=torch.int32) for on in (predicted & inside, predicted & outside, inside, outside))
    return torch.stack([hits, wrong, there - hits, elsewhere - wrong], 1).long()


class Counts:
    """[tp, fp, fn, tn] per scoring, output and class. Sums of integers: the order of episodes cannot matter."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str, str], np.ndarray] = {}

    def add_padded(self, output: str, logits: Tensor, truth: Tensor, classes: Sequence[str]) -> None:
        """Score at the padded square: logits [B, 2, H, W] are resized to truth [B, S, S] in {0, 1, 255}."""
        full = resize(logits.float(), truth.shape[-1])
        self._add("padded", output, confusion(full[:, 1] > full[:, 0], truth), classes)

    def add_original(
        self, output: str, logits: Tensor, truth: Sequence[np.ndarray], placed: Tensor, size: int, classes: Sequence[str]
    ) -> None:
        """Score at the original size, and warped to 400x400 (HSNet's).

        truth[i] is [h, w] in {0, 1, 255}; placed [B, 2] says where the image lies in the square of side `size`.
        """
        full = resize(logits.float(), size)
        for i, mask in enumerate(truth):
            known = torch.from_numpy(mask).to(full.device)  # [h, w]
            warped = F.interpolate(known[None, None], (WARPED, WARPED), mode="nearest")[0, 0]
            for scoring, target in (("original", known), (str(WARPED), warped)):
                back = unfit(full[i], (int(placed[i, 0]), int(placed[i, 1])), (target.shape[0], target.shape[1]))  # [2, h, w]
                self._add(scoring, output, confusion((back[1] > back[0])[None], target[None]), classes[i : i + 1])

    def _add(self, scoring: str, output: str, counts: Tensor, classes: Sequence[str]) -> None:
        for name, row in zip(classes, counts.cpu().numpy(), strict=True):
            key = (scoring, output, name)
            self._sums[key] = self._sums.get(key, 0) + row

    def of(self, scoring: str) -> dict[str, dict[str, list[int]]]:
        """{output: {class: [tp, fp, fn, tn]}}, in order of names."""
        found: dict[str, dict[str, list[int]]] = {}
        for (kind, output, name), counts in sorted(self._sums.items()):
            if kind == scoring:
                found.setdefault(output, {})[name] = [int(c) for c in counts]
        return found
