"""A batch of images of any sizes in one buffer of bytes, with what is to become of each: a single copy takes it to the device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from symnet.data.images import Pixels
from symnet.data.transforms import Draw, can_blur, crop_places, fitted_size, scaled_size


class Plan(NamedTuple):
    """What becomes of one image, in numbers: `apply` of a draw, or `fit`.

    It is scaled to `height` x `width`, turned by the angle of `cos` and `sin`, blurred, flipped, put at (`top`, `left`) of a canvas of
    zeros or, where `mean` is 1, of the mean colour, and cut out at the first of `places` whose square holds the share `keep` of the
    foreground: of class `wanted`, or of any (-1).
    """

    height: int
    width: int
    places: Sequence[tuple[int, int]] = ((0, 0),)
    cos: float = 1.0
    sin: float = 0.0
    blur: bool = False
    flip: bool = False
    top: int = 0
    left: int = 0
    keep: float = 0.0
    wanted: int = -1
    mean: bool = False


def plan_fit(shape: tuple[int, int], size: int) -> Plan:
    """`fit` of an image of `shape` (height, width)."""
    return Plan(*fitted_size(*shape, size))


def plan_augment(shape: tuple[int, int], drawn: Draw, size: int, keep: float, wanted: int | None = None) -> Plan:
    """`apply` of a draw to an image of `shape` (height, width)."""
    height, width = scaled_size(shape, drawn.scale)
    turn = math.radians(-(drawn.angle % 360))  # torchvision's sense and order of operations: its rounding is to be met
    return Plan(
        height,
        width,
        crop_places(drawn.crops, max(height, size), max(width, size), size),
        math.cos(turn),
        math.sin(turn),
        drawn.blur and can_blur(height, width),
        drawn.flip,
        max(size - height, 0) // 2,
        max(size - width, 0) // 2,
        keep,
        -1 if wanted is None else wanted,
        mean=True,
    )


Item = tuple[Pixels, Pixels, Plan]  # an image uint8 [H, W, 3], its index mask uint8 [H, W], what becomes of them
COLUMNS = ("start", "old_height", "old_width", *(name for name in Plan._fields if name != "places"))


@dataclass(frozen=True)
class Packed:
    """n images. `buffer` holds, one after the other, a row of numbers for each, the pixels of all, and the masks of all.

    A row is float64: `COLUMNS` (`start`: pixels before the image; size before scaling; the plan), then (top, left) of each place. The
    sizes (height, width) before and after scaling are on the host too, so that no shape waits for the device.
    """

    buffer: Tensor  # [bytes] uint8
    rows: tuple[int, int]
    shapes: list[tuple[int, int]]
    scaled: list[tuple[int, int]]

    @property
    def largest(self) -> tuple[int, int]:
        """The least (height, width) that holds each image once it is scaled."""
        return max(height for height, _ in self.scaled), max(width for _, width in self.scaled)

    def to(self, device: torch.device) -> "Packed":
        """The same on a device: one copy, for which the host does not wait where the buffer is pinned."""
        return replace(self, buffer=self.buffer.to(device, non_blocking=True))

    def open(self) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        """Columns [n] float64 by name, places [n, T, 2] int64, pixels [P, 3] uint8, masks [P] uint8."""
        head = 8 * math.prod(self.rows)
        count = (len(self.buffer) - head) // 4
        numbers = self.buffer[:head].view(torch.float64).view(self.rows)
        columns = dict(zip(COLUMNS, numbers.T[: len(COLUMNS)], strict=True))
        places = numbers[:, len(COLUMNS) :].long().unflatten(1, (-1, 2))
        return columns, places, self.buffer[head : head + 3 * count].view(count, 3), self.buffer[head + 3 * count :]


def pack(items: Sequence[Item], pin: bool = False) -> Packed:
    """Lay items into one buffer. pin: in page-locked memory, from which a GPU copies by itself."""
    shapes = [(mask.shape[0], mask.shape[1]) for _, mask, _ in items]
    plans = [plan for _, _, plan in items]
    starts = np.cumsum([0, *(height * width for height, width in shapes)])
    tries = max(len(plan.places) for plan in plans)
    rows = []
    for start, shape, plan in zip(starts[:-1], shapes, plans, strict=True):
        places = [*plan.places, *[plan.places[-1]] * (tries - len(plan.places))]  # the last is taken anyway
        rows.append([start, *shape, *(value for name, value in plan._asdict().items() if name != "places"), *np.ravel(places)])
    numbers = np.array(rows, np.float64)
    buffer = torch.empty(numbers.nbytes + 4 * int(starts[-1]), dtype=torch.uint8, pin_memory=pin)
    parts = [numbers.view(np.uint8), *(image for image, _, _ in items), *(mask for _, mask, _ in items)]
    np.concatenate([part.ravel() for part in parts], out=buffer.numpy())
    return Packed(buffer, (len(items), numbers.shape[1]), shapes, [(plan.height, plan.width) for plan in plans])
