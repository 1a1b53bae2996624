"""From counts to scores. Counts are [tp, fp, fn, tn], integers, so that the order of episodes cannot matter.

IoU of a class is the sum of its intersections over the sum of its unions, over all its episodes (shared practice since PANet);
pixels labelled 255 were never counted. `iou` is a fraction; everything over classes is in percent.
"""

from collections.abc import Mapping, Sequence
from math import fsum
from numbers import Integral
from typing import Any

from symnet.artifacts import digest

Counts = Sequence[int]  # [tp, fp, fn, tn]
PerClass = Mapping[str, Counts]


def iou(counts: Counts) -> float:
    """Foreground IoU in [0, 1]: tp / (tp + fp + fn). Raises `ValueError` where no pixel is in the union: that has no IoU."""
    tp, fp, fn, _ = _checked(counts)
    return _ratio(tp, tp + fp + fn)


def background_iou(counts: Counts) -> float:
    """Background IoU in [0, 1]: tn / (tn + fp + fn). Raises `ValueError` where no pixel is in the union."""
    _, fp, fn, tn = _checked(counts)
    return _ratio(tn, tn + fp + fn)


def class_iou(per_class: PerClass) -> dict[str, float]:
    """Class -> IoU in percent, for the classes that had episodes. Raises `ValueError` naming a class without a union."""
    found = {}
    for name, counts in per_class.items():
        try:
            found[name] = 100 * iou(counts)
        except ValueError as error:
            raise ValueError(f"class {name}: {error}") from None
    return found


def mean_iou(per_class: PerClass) -> float:
    """Mean IoU in percent: the mean of `class_iou` over the classes that had episodes. Raises `ValueError` where none had."""
    if not per_class:
        raise ValueError("no class had an episode, so there is no mIoU")
    return fsum(class_iou(per_class).values()) / len(per_class)  # fsum: the same to the last bit in any order of classes


def fb_iou(per_class: PerClass) -> float:
    """FB-IoU in percent: the mean of foreground and background IoU, counts summed over all classes first. Raises `ValueError`."""
    if not per_class:
        raise ValueError("no class had an episode, so there is no FB-IoU")
    total = [sum(column) for column in zip(*(_checked(counts) for counts in per_class.values()), strict=True)]
    return 50 * (iou(total) + background_iou(total))


def protocol_stamp(protocol: Mapping[str, Any]) -> str:
    """`symnet-1-3f9a01bc`: the protocol's name and the first 8 hex digits of the digest of all it fixes."""
    return f"{protocol['name']}-{digest(dict(protocol))[:8]}"


def _checked(counts: Counts) -> Counts:
    if len(counts) != 4 or not all(isinstance(count, Integral) and count >= 0 for count in counts):
        raise ValueError(f"found {counts!r}, expected counts [tp, fp, fn, tn], whole numbers from 0")
    return counts


def _ratio(intersection: int, union: int) -> float:
    if union == 0:
        raise ValueError("union is empty (no pixel predicted or true), so there is no IoU")
    return float(intersection / union)
