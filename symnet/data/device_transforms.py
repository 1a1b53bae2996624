"""`transforms.apply` and `transforms.fit` for a batch of images of any sizes at once, on the device, with nothing read back from it.

Masks come out as the plain code's: each step is an index into the file's mask, rounded where the plain code rounds. The crop is found on
them, for all its places at once. Then the image is resized, and turned and blurred in the crop alone. Images differ from the plain code's
by rounding, less than 1e-3 after normalising (a grey level is 0.017): no matrix product and no convolution is used, which a GPU may round
to 10 bits.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from symnet.data.images import IGNORE
from symnet.data.packing import Packed
from symnet.data.transforms import BLUR_KERNEL, BLUR_SIGMA, MEAN, MEAN_COLOUR, STD, resize

EDGE = BLUR_KERNEL[0] // 2
Columns = dict[str, Tensor]  # of `Packed`, [n, 1, 1]


@torch.no_grad()
def transform(packed: Packed, size: int, antialias: bool = False, table: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Carry out the plans of images that lie on the device. size, antialias: as of `apply`; table: as of `crop`.

    Returns float32 [n, 3, S, S] and uint8 [n, S, S].
    """
    truth, top, left = crop(packed, size, table)
    columns, _, pixels, _ = _open(packed)
    canvas = _resize(packed, pixels, antialias)
    reach = torch.arange(-EDGE, size + EDGE, device=canvas.device)
    y, x = (top + reach)[:, :, None] - columns["top"], (left + reach)[:, None, :] - columns["left"]  # [n, S + 4, 1], [n, 1, S + 4]
    inside = _within(y, columns["height"]) & _within(x, columns["width"])
    y, x = _reflect(y, columns["height"]), _reflect(x, columns["width"])
    image = _blur(_sample(canvas, *_before_turn(columns, y, x)), columns["blur"])
    padding = columns["mean"].float()[:, None] * _colour(MEAN_COLOUR, canvas.device)
    image = torch.where(inside[:, None, EDGE:-EDGE, EDGE:-EDGE], image, padding)
    return (image / 255 - _colour(MEAN, canvas.device)) / _colour(STD, canvas.device), truth


@torch.no_grad()
def crop(packed: Packed, size: int, table: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The masks of `transform`, uint8 [n, S, S], and where in the canvas the crops begin: top and left, int64 [n, 1].

    table: uint8 [256] on the device, the value to take in place of each of a mask's before the crop is chosen.
    """
    columns, places, _, masks = _open(packed)
    device = masks.device
    if table is not None:
        masks = table[masks.long()]
    height, width = (max(side, size) for side in packed.largest)
    y = torch.arange(height, device=device)[None, :, None] - columns["top"]
    x = torch.arange(width, device=device)[None, None, :] - columns["left"]
    known = _within(y, columns["height"]) & _within(x, columns["width"])
    y, x = (at.round() for at in _before_turn(columns, y, x))
    known = known & _within(y, columns["height"]) & _within(x, columns["width"])
    y, x = _nearest(y, columns["old_height"], columns["height"]), _nearest(x, columns["old_width"], columns["width"])
    index = columns["start"].long() + y * columns["old_width"].long() + x
    truth = torch.where(known, masks[torch.where(known, index, 0)], IGNORE)  # [n, height, width]
    wanted = columns["wanted"]
    foreground = torch.where(wanted < 0, (truth != 0) & (truth != IGNORE), truth == wanted)
    chosen = _first_that_keeps(foreground, places, size, columns["keep"][:, 0])
    at = chosen[:, None] + torch.arange(size, device=device)[:, None]  # [n, S, 2]
    rows = torch.arange(len(truth), device=device)[:, None, None]
    return truth[rows, at[:, :, None, 0], at[:, None, :, 1]], chosen[:, :1], chosen[:, 1:]


def _open(packed: Packed) -> tuple[Columns, Tensor, Tensor, Tensor]:
    columns, places, pixels, masks = packed.open()
    return {name: column[:, None, None] for name, column in columns.items()}, places, pixels, masks


def _colour(values: Sequence[float], device: torch.device) -> Tensor:
    """Float32 [3, 1, 1], made on the device: for a copy from the host the device would be waited for."""
    return torch.stack([torch.full((1, 1), value, device=device) for value in values])


def _within(at: Tensor, end: Tensor) -> Tensor:
    return (at >= 0) & (at < end)


def _reflect(at: Tensor, end: Tensor) -> Tensor:
    """Mirrored at the borders, as the blur needs it; what lies farther out is not used."""
    return ((end - 1) - ((end - 1) - at.abs()).abs()).clamp(min=0)


def _before_turn(columns: Columns, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Where pixels [n, A, 1] and [n, 1, B] of the flipped, turned image lie in the scaled one: float32 [n, A, B] each.

    In the steps of torchvision's grid and torch's `grid_sample`, so that what is rounded to the nearest pixel is rounded alike.
    """
    height, width, cos, sin = (columns[name].float() for name in ("height", "width", "cos", "sin"))
    y, x = y.float(), x.float()
    x = torch.where(columns["flip"] > 0, width - 1 - x, x)
    dy, dx = y - (height - 1) / 2, x - (width - 1) / 2
    grid_y = dx * (-sin / (height / 2)) + dy * (cos / (height / 2))
    grid_x = dx * (cos / (width / 2)) + dy * (sin / (width / 2))
    turned = sin != 0
    return torch.where(turned, (grid_y + 1) * (height / 2) - 0.5, y), torch.where(turned, (grid_x + 1) * (width / 2) - 0.5, x)


def _nearest(at: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """The pixel before scaling, int64: by `F.interpolate`'s rule, in float32 as there."""
    return torch.minimum((at * (old.float() / new.float())).long(), old.long() - 1)


def _first_that_keeps(foreground: Tensor, places: Tensor, size: int, keep: Tensor) -> Tensor:
    """The first of places [n, T, 2] whose square holds the share `keep` [n, 1] of foreground [n, H, W], else the last: int64 [n, 2]."""
    sums = F.pad(foreground.cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32), (1, 0, 1, 0))
    across, flat = sums.shape[2], sums.flatten(1)
    corner = places[..., 0] * across + places[..., 1]
    held = flat.gather(1, corner + size * (across + 1)) - flat.gather(1, corner + size * across)
    held = held - flat.gather(1, corner + size) + flat.gather(1, corner)
    enough = held.double() >= keep * flat[:, -1:].double()
    order = torch.arange(places.shape[1], device=places.device)
    first = torch.where(enough, order, places.shape[1] - 1).amin(1)
    return places.gather(1, first[:, None, None].expand(-1, 1, 2))[:, 0]


def _resize(packed: Packed, pixels: Tensor, antialias: bool) -> Tensor:
    """All images at their scaled sizes, [n, 4, H, W] float32, top-left in the largest: colours in 0..255, and 1 where the image is."""
    canvas = torch.zeros(len(packed.shapes), 4, *packed.largest, device=pixels.device)
    parts = pixels.split([height * width for height, width in packed.shapes])
    for part, shape, scaled, place in zip(parts, packed.shapes, packed.scaled, canvas, strict=True):
        image = part.view(*shape, 3).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format)
        place[:3, : scaled[0], : scaled[1]] = resize(image, *scaled, antialias)
        place[3, : scaled[0], : scaled[1]].fill_(1)
    return canvas


def _sample(canvas: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """`_resize`'s images at positions [n, A, B], bilinearly, [n, 3, A, B]; where a turn uncovers what is outside, the mean colour."""
    height, width = canvas.shape[2:]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], 3)
    found = F.grid_sample(canvas, grid, align_corners=False)
    mean = _colour(MEAN_COLOUR, canvas.device)
    return (found[:, :3] - mean) * found[:, 3:] + mean  # torchvision's rule


def _blur(values: Tensor, wanted: Tensor) -> Tensor:
    """[n, 3, S + 4, S + 4] -> [n, 3, S, S]: blurred where wanted [n, 1, 1], else the middle."""
    distance = torch.arange(-EDGE, EDGE + 1, device=values.device)
    kernel = torch.softmax(-(distance.float() ** 2) / (2 * BLUR_SIGMA[0] ** 2), 0)
    kernel = torch.where(wanted > 0, kernel, (distance == 0).float())[..., None]  # [n, 1, 5, 1]
    size = values.shape[2] - 2 * EDGE
    for axis in (2, 3):
        shifted = [values.narrow(axis, k, size) * kernel[:, :, k : k + 1] for k in range(len(distance))]
        values = sum(shifted[1:], start=shifted[0])
    return values
