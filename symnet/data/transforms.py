"""From an image and its index mask to the network's square, for testing and for training, and back to the original size.

Images are resized without antialiasing (unless `pixels.antialias`) and about pixel centres, as the field's OpenCV code does; masks by the
nearest neighbour.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor

from symnet.config_data import PixelSettings
from symnet.data.images import IGNORE, Pixels

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, for values in [0, 1]
STD = (0.229, 0.224, 0.225)
MEAN_COLOUR = [255 * value for value in MEAN]
BLUR_KERNEL = [5, 5]
BLUR_SIGMA = [1.1, 1.1]  # OpenCV's for a kernel of 5


@dataclass(frozen=True)
class Fitted:
    """A test image in its square: `image` float32 [3, S, S], normalised; `mask` uint8 [S, S]; the placed part's `height`, `width`."""

    image: Tensor
    mask: Tensor
    height: int
    width: int


def only_classes(mask: Pixels, classes: Sequence[int]) -> Pixels:
    """The index mask with every other class painted background (0); 255 stays."""
    return class_table(classes)[mask]


def class_table(classes: Sequence[int]) -> Pixels:
    """What `only_classes` makes of each mask value, uint8 [256]."""
    kept = np.zeros(256, np.uint8)
    kept[[*classes, IGNORE]] = [*classes, IGNORE]
    return kept


def normalise(image: Tensor) -> Tensor:
    """Values 0..255 [..., 3, H, W] to float32 by ImageNet's mean and deviation."""
    mean = image.new_tensor(MEAN, dtype=torch.float32).view(3, 1, 1)
    std = image.new_tensor(STD, dtype=torch.float32).view(3, 1, 1)
    return (image.float() / 255 - mean) / std


def fitted_size(height: int, width: int, size: int) -> tuple[int, int]:
    """The placed (height, width): longer side to `size`, then both floored to a multiple of 8, 8 at least."""
    longer = max(height, width)
    return max(height * size // longer // 8 * 8, 8), max(width * size // longer // 8 * 8, 8)


def fit(image: Pixels, mask: Pixels, size: int, antialias: bool = False) -> Fitted:
    """The test transform. image: uint8 [H, W, 3]; mask: uint8 [H, W]; size: S, the side of the square.

    Pasted top-left; the image is padded with 0 before normalising, the mask with 255.
    """
    height, width = fitted_size(mask.shape[0], mask.shape[1], size)  # 473 gives 472: 473 is no multiple of 8
    square = torch.zeros(3, size, size)
    square[:, :height, :width] = resize(_planes(image), height, width, antialias)
    truth = torch.full((size, size), IGNORE, dtype=torch.uint8)
    truth[:height, :width] = _resize_mask(torch.from_numpy(mask.copy()), height, width)
    return Fitted(normalise(square), truth, height, width)


def unfit(logits: Tensor, placed: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """Logits of the square [n, 2, S, S] -> at the original (height, width) [n, 2, H, W]: the placed part, resized bilinearly.

    About pixel centres (`align_corners=False`), which undoes `fit`'s resizing of the image.
    """
    return F.interpolate(logits[..., : placed[0], : placed[1]], original, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Draw:
    """Every random number of one augmentation. `angle` in degrees, 0 for no rotation; `crops`: places in [0, 1)^2 to try in turn."""

    scale: float
    angle: float
    blur: bool
    flip: bool
    crops: tuple[tuple[float, float], ...]


def draw(settings: PixelSettings, rng: Generator, scale: tuple[float, float] | None = None) -> Draw:
    """Draw an augmentation: always the same count of numbers from `rng`, whatever comes out. scale: a range in place of the settings'."""
    low, high = scale or settings.scale
    u = rng.random(6)
    crops = rng.random((settings.tries + 1, 2))
    return Draw(
        scale=float(low + (high - low) * u[0]),
        angle=float((2 * u[2] - 1) * settings.rotation) if u[1] < settings.rotation_p else 0.0,
        blur=bool(u[3] < settings.blur_p),
        flip=bool(u[4] < settings.flip_p),
        crops=tuple((float(top), float(left)) for top, left in crops),
    )


def augment(
    image: Pixels,
    mask: Pixels,
    settings: PixelSettings,
    rng: Generator,
    wanted: int | None = None,
    *,
    scale: tuple[float, float] | None = None,
    size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The training transform: scale, rotation, blur, flip, crop, normalise, each drawn from `rng`.

    image: uint8 [H, W, 3]; mask: uint8 [H, W]; wanted: the class whose pixels the crop must keep, None for any class; scale, size:
    the base learner's, in place of the settings'. Returns float32 [3, S, S] and uint8 [S, S].
    """
    return apply(image, mask, draw(settings, rng, scale), size or settings.size, settings.keep, wanted, settings.antialias)


def apply(
    image: Pixels, mask: Pixels, drawn: Draw, size: int, keep: float, wanted: int | None = None, antialias: bool = False
) -> tuple[Tensor, Tensor]:
    """Carry out what was drawn. keep: share of the foreground the crop must hold; the last of `drawn.crops` is taken as it is."""
    height, width = scaled_size((mask.shape[0], mask.shape[1]), drawn.scale)
    pixels = resize(_planes(image), height, width, antialias)  # [3, H, W]
    truth = _resize_mask(torch.from_numpy(mask.copy()), height, width)  # [H, W]
    if drawn.angle:
        pixels, truth = _rotate(pixels, truth, drawn.angle)
    if drawn.blur and can_blur(height, width):
        pixels = _blur(pixels)
    if drawn.flip:
        pixels, truth = pixels.flip(-1), truth.flip(-1)
    pixels, truth = _pad(pixels, truth, size)
    top, left = _choose_crop(_foreground(truth, wanted), drawn.crops, size, keep)
    box = (..., slice(top, top + size), slice(left, left + size))
    return normalise(pixels[box]).contiguous(), truth[box].contiguous()


def scaled_size(shape: tuple[int, int], scale: float) -> tuple[int, int]:
    """(height, width) after the random scale."""
    height, width = (max(round(side * scale), 1) for side in shape)
    return height, width


def can_blur(height: int, width: int) -> bool:
    """Whether there are the 2 pixels beside each border that the blur reflects."""
    return min(height, width) > BLUR_KERNEL[0] // 2


def crop_places(crops: Sequence[tuple[float, float]], height: int, width: int, size: int) -> list[tuple[int, int]]:
    """The (top, left) of each crop drawn; `height`, `width` are at least `size`."""
    return [(int(y * (height - size + 1)), int(x * (width - size + 1))) for y, x in crops]


def _planes(image: Pixels) -> Tensor:
    """Float32 in 0..255: resizing uint8 rounds after each axis, which the field's float code does not."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float().contiguous()  # [3, H, W]


def resize(pixels: Tensor, height: int, width: int, antialias: bool) -> Tensor:
    """Bilinearly, about pixel centres: float32 [3, h, w] -> [3, H, W]."""
    return F.interpolate(pixels[None], (height, width), mode="bilinear", align_corners=False, antialias=antialias)[0]


# torchvision is imported where it is called: it brings torch's compiler, two seconds, which the many jobs that read a cache can do without.
def _rotate(pixels: Tensor, truth: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    import torchvision.transforms.v2.functional as V
    from torchvision.transforms import InterpolationMode

    pixels = V.rotate(pixels, angle, InterpolationMode.BILINEAR, fill=MEAN_COLOUR)
    return pixels, V.rotate(truth[None], angle, InterpolationMode.NEAREST, fill=[float(IGNORE)])[0]


def _blur(pixels: Tensor) -> Tensor:
    import torchvision.transforms.v2.functional as V

    return V.gaussian_blur(pixels, BLUR_KERNEL, BLUR_SIGMA)


def _resize_mask(mask: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(mask[None, None], (height, width), mode="nearest")[0, 0]


def _pad(pixels: Tensor, truth: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Grow both to `size` at least, evenly on all sides, with the mean colour and 255."""
    height, width = truth.shape
    more_y, more_x = max(size - height, 0), max(size - width, 0)
    if not (more_y or more_x):
        return pixels, truth
    top, left = more_y // 2, more_x // 2
    padded = torch.tensor(MEAN_COLOUR).view(3, 1, 1).repeat(1, height + more_y, width + more_x)
    padded[:, top : top + height, left : left + width] = pixels
    return padded, F.pad(truth, (left, more_x - left, top, more_y - top), value=IGNORE)


def _foreground(truth: Tensor, wanted: int | None) -> Tensor:
    return truth == wanted if wanted is not None else (truth != 0) & (truth != IGNORE)


def _choose_crop(foreground: Tensor, crops: tuple[tuple[float, float], ...], size: int, keep: float) -> tuple[int, int]:
    """The first place whose square holds `keep` of the foreground, else the last."""
    least = keep * int(foreground.sum())
    places = crop_places(crops, foreground.shape[0], foreground.shape[1], size)
    for top, left in places:
        if int(foreground[top : top + size, left : left + size].sum()) >= least:
            return top, left
    return places[-1]
