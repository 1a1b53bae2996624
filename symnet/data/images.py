"""Reading image and mask files, and refusing what is damaged, hostile or not a mask."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from symnet.errors import UserError, one_line

Pixels = NDArray[np.uint8]
IGNORE = 255  # mask value that no score and no loss sees
MAX_PIXELS = 2**26  # a larger image is taken for a decompression bomb; below Pillow's own limit


class BadFile(UserError):
    """An image or mask that cannot be used: the one error that `data.bad_files: skip` passes over."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["BadFile"], tuple[Path, str]]:
        """So that it comes whole out of a worker process."""
        return type(self), (self.path, self.reason)


def read_image(path: Path) -> Pixels:
    """Read an image as RGB, uint8 [H, W, 3]. Grey, CMYK and palette images are converted, alpha is dropped. Raises `BadFile`.

    An EXIF orientation is not applied: masks are drawn over the stored pixels.
    """
    return np.array(_open(path, lambda image: image.convert("RGB")))


def check_image(path: Path) -> tuple[int, int]:
    """Read an image to its end, as cheaply as its format allows. Returns (width, height). Raises `BadFile`."""

    def read(image: Image.Image) -> Image.Image:
        sizes.append(image.size)
        image.draft("RGB", (1, 1))  # a JPEG's entropy code is read whole, its pixels at 1/8: five times faster
        image.load()
        return image

    sizes: list[tuple[int, int]] = []
    _open(path, read)
    return sizes[0]


def read_mask(path: Path, classes: int) -> Pixels:
    """Read an index mask, uint8 [H, W]: a palette or 8-bit grey PNG with values 0..`classes` and 255. Raises `BadFile`."""

    def read(image: Image.Image) -> Image.Image:
        if image.format != "PNG" or image.mode not in ("P", "L"):
            raise BadFile(path, f"found a {image.format} of mode {image.mode}; a mask is a PNG of mode P (palette) or L (grey)")
        image.load()
        return image

    mask = np.array(_open(path, read))
    check_values(mask, classes, path)
    return mask


def encode_mask(mask: Pixels) -> bytes:
    """An index mask, uint8 [H, W], as a PNG with VOC's palette. Equal masks give equal bytes."""
    image = Image.fromarray(mask, "P")
    image.putpalette(voc_palette())
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def voc_palette() -> list[int]:
    """VOC's colours of the indices 0..255, flat RGB: the bits of an index, three at a time, spread from the high bits down."""
    index = np.arange(256)
    channels = [sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8)) for channel in range(3)]
    return np.stack(channels, 1).ravel().tolist()


def check_values(mask: Pixels, classes: int, path: Path) -> None:
    """Raise `BadFile` where `mask` holds a value that is no class index."""
    strange = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[classes + 1 : IGNORE])
    if len(strange):
        raise BadFile(path, f"found mask value {strange[0] + classes + 1}; allowed: 0 to {classes}, and {IGNORE} for 'ignore'")


def check_same_size(image: tuple[int, int], mask: tuple[int, int], image_path: Path, mask_path: Path) -> None:
    """Raise `BadFile` where the (width, height) of an image and of its mask differ."""
    if image != mask:
        raise BadFile(mask_path, f"mask of {mask[0]}x{mask[1]} for {image_path.name} of {image[0]}x{image[1]}; they must be equal")


def _open(path: Path, read: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Read the file once, then decode it from memory, with every way to fail turned into `BadFile`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BadFile(path, "not found") from None
    except OSError as error:
        raise BadFile(path, f"cannot be read ({one_line(error.strerror)})") from None
    if not data:
        raise BadFile(path, "the file is empty (zero bytes)")
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadFile(path, f"found {image.width}x{image.height} pixels; allowed: {MAX_PIXELS} in all")
            return read(image)
    except BadFile:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadFile(path, f"found more than the allowed {MAX_PIXELS} pixels") from None
    except Exception as error:  # Pillow raises many kinds on damaged bytes
        raise BadFile(path, f"not a whole, readable image ({one_line(error)})") from None
