"""`transforms.apply` and `transforms.fit` for a batch of images of any sizes at once, on the device, with nothing read back from it.

Masks come out as the plain code's: each step is an index into the file's mask, rounded where the plain code rounds. The crop is found on
them, for all its places at once. Then the image is resized, and turned and blurred in the crop alone. Images differ from the plain code's
by the rounding of sums of a few products: no matrix product and no convolution is used, which a GPU may round to 10 bits.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from symnet.data.images import IGNORE
from symnet.data.packing import Packed
from symnet.data.transforms import BLUR_KERNEL, BLUR_SIGMA, MEAN, MEAN_COLOUR, STD

EDGE = BLUR_KERNEL[0] // 2
Columns = dict[str, Tensor]  # of `Packed`, [n, 1, 1]


@torch.no_grad()
def transform(packed: Packed, size: int, antialias: bool = False, table: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Carry out the plans of images that lie on the device. size, antialias: as of `apply`; table: as of `crop`.

    Returns float32 [n, 3, S, S], laid out with its channels last, and uint8 [n, S, S].
    """
    truth, top, left = crop(packed, size, table)
    columns, _, pixels, _ = _open(packed)
    image = _resize(packed, columns, pixels, antialias)  # [n, H, W, 3]
    reach = torch.arange(-EDGE, size + EDGE, device=image.device)
    y, x = (top + reach)[:, :, None] - columns["top"], (left + reach)[:, None, :] - columns["left"]  # [n, S + 4, 1], [n, 1, S + 4]
    inside = _within(y, columns["height"]) & _within(x, columns["width"])
    y, x = _reflect(y, columns["height"]), _reflect(x, columns["width"])
    values = _blur(_sample(image, columns, *_before_turn(columns, y, x)), columns["blur"])
    mean = _row(MEAN_COLOUR, image.device)
    values = torch.where(inside[:, EDGE:-EDGE, EDGE:-EDGE, None], values, columns["mean"][..., None].float() * mean)
    return ((values / 255 - _row(MEAN, image.device)) / _row(STD, image.device)).permute(0, 3, 1, 2), truth


@torch.no_grad()
def crop(packed: Packed, size: int, table: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The masks of `transform`, uint8 [n, S, S], and where in the canvas the crops begin: top and left, int64 [n, 1].

    table: uint8 [256] on the device, the value to take in place of each of a mask's before the crop is chosen.
    """
    columns, places, _, masks = _open(packed)
    device = masks.device
    if table is not None:
        masks = table[masks.long()]
    height, width = (max(side, size) for side in packed.scaled)
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


def _row(values: Sequence[float], device: torch.device) -> Tensor:
    """Float32, made on the device: a copy from the host would wait for it."""
    return torch.stack([torch.full((), value, device=device) for value in values])


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


def _resize(packed: Packed, columns: Columns, pixels: Tensor, antialias: bool) -> Tensor:
    """All images at their scaled sizes, float32 [n, H, W, 3] in 0..255, top-left in the largest."""
    (height, width), device = packed.scaled, pixels.device
    across = torch.minimum(torch.arange(packed.source[1], device=device), columns["old_width"].long() - 1)  # [n, 1, W before]
    begin = columns["start"].long() + across
    tall = torch.zeros((), device=device)
    for y, weight in _taps(packed, columns["old_height"], columns["height"], height, antialias):
        tall = tall + pixels[begin + y[:, :, None] * columns["old_width"].long()] * weight[:, :, None, None]
    image = torch.zeros((), device=device)
    for x, weight in _taps(packed, columns["old_width"], columns["width"], width, antialias):
        image = image + tall.gather(2, x[:, None, :, None].expand(-1, height, -1, 3)) * weight[:, None, :, None]
    return image


def _taps(packed: Packed, old: Tensor, new: Tensor, length: int, antialias: bool) -> list[tuple[Tensor, Tensor]]:
    """What a resized line is summed of: (index before, weight), [n, length] each. Bilinear, about pixel centres; edges repeat."""
    old, scale = old[:, 0], old[:, 0].float() / new[:, 0].float()
    centre = scale * (torch.arange(length, device=old.device) + 0.5) - 0.5
    reach = scale.clamp(min=1) if antialias else torch.ones_like(scale)
    first = (centre - reach).floor() + 1
    most = math.ceil(2 * max(packed.cover, 1.0)) if antialias else 2
    taps = [first + k for k in range(most)]
    weights = [torch.where(_within(at, old), (1 - (at - centre).abs() / reach).clamp(min=0), 0) for at in taps]
    total = torch.stack(weights).sum(0).clamp(min=0.1)  # 0 beyond the image's own length
    return [(torch.minimum(at.long().clamp(min=0), old.long() - 1), weight / total) for at, weight in zip(taps, weights, strict=True)]


def _sample(image: Tensor, columns: Columns, y: Tensor, x: Tensor) -> Tensor:
    """Images [n, H, W, 3] at positions [n, A, B], bilinearly; where a turn uncovers what is outside, the mean colour, as torchvision."""
    count, height, width, _ = image.shape
    flat, rows = image.flatten(0, 2), torch.arange(count, device=image.device)[:, None, None] * height
    low_y, low_x = y.floor(), x.floor()
    total, share = torch.zeros((), device=image.device), torch.zeros((), device=image.device)
    for at_y, weight_y in ((low_y, low_y + 1 - y), (low_y + 1, y - low_y)):
        for at_x, weight_x in ((low_x, low_x + 1 - x), (low_x + 1, x - low_x)):
            known = _within(at_y, columns["height"]) & _within(at_x, columns["width"])
            index = torch.where(known, (rows + at_y.long()) * width + at_x.long(), 0)
            weight = torch.where(known, weight_y * weight_x, 0)[..., None]
            total, share = total + flat[index] * weight, share + weight
    mean = _row(MEAN_COLOUR, image.device)
    return (total - mean) * share + mean


def _blur(values: Tensor, wanted: Tensor) -> Tensor:
    """[n, S + 4, S + 4, 3] -> [n, S, S, 3]: blurred where wanted [n, 1, 1], else the middle."""
    distance = torch.arange(-EDGE, EDGE + 1, device=values.device)
    kernel = torch.softmax(-(distance.float() ** 2) / (2 * BLUR_SIGMA[0] ** 2), 0)
    kernel = torch.where(wanted > 0, kernel, (distance == 0).float())[..., None]  # [n, 1, 5, 1]
    size = values.shape[1] - 2 * EDGE
    for axis in (1, 2):
        shifted = [values.narrow(axis, k, size) * kernel[:, :, k : k + 1] for k in range(len(distance))]
        values = sum(shifted[1:], start=shifted[0])
    return values
