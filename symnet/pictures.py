"""Pictures to look at: read as people see them, masks over them, maps side by side. What they show is never computed here."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from symnet.artifacts import replacing
from symnet.data.images import MAX_PIXELS, Pixels
from symnet.errors import UserError, one_line

COLOUR = (214, 0, 140)  # of an object: rare in photographs, and dark enough for the colour-blind
OPACITY = 0.45
ORIENTATION = 0x0112  # EXIF's tag
PANEL = 240  # pixels, height of one map on a sheet
UPLOADED = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # others, such as EPS, start programs of the machine


@dataclass(frozen=True)
class Uploaded:
    """A picture that lies in no file here. Its name is for messages only."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


def read_picture(path: Path | Uploaded) -> Pixels:
    """A picture as a person sees it, RGB uint8 [H, W, 3]: EXIF rotation applied, any format that Pillow reads. Raises `UserError`."""
    return np.array(ImageOps.exif_transpose(_open(path)).convert("RGB"))


def read_drawn_mask(path: Path | Uploaded, image: Path | Uploaded) -> Pixels:
    """A drawn mask, uint8 [H, W]: the indices of a palette, else grey levels. Raises `UserError`.

    It fits `image` as that is seen, or as it is stored: where EXIF turns the image, it turns such a mask with it.
    """
    drawn, picture = ImageOps.exif_transpose(_open(path)), _open(image)
    if drawn.mode not in ("P", "L"):
        drawn = drawn.convert("RGB" if drawn.mode not in ("1", "I;16") else "L").convert("L")
    seen = ImageOps.exif_transpose(picture).size
    if drawn.size != seen and drawn.size == picture.size:
        drawn.getexif()[ORIENTATION] = picture.getexif()[ORIENTATION]
        drawn = ImageOps.exif_transpose(drawn)
    if drawn.size != seen:
        raise UserError(f"{path}: mask of {drawn.width}x{drawn.height} for {image.name} of {seen[0]}x{seen[1]}; they must be equal")
    return np.array(drawn)


def overlay(image: Pixels, mask: Pixels) -> Image.Image:
    """`image` uint8 [H, W, 3] with the object of `mask` [H, W] (1; 255 is left as it is) in colour, and its outline."""
    on = mask == 1
    tinted = image.astype(np.float32)
    tinted[on] = (1 - OPACITY) * tinted[on] + OPACITY * np.array(COLOUR, np.float32)
    tinted[outline(on, max(1, round(max(on.shape) / 400)))] = COLOUR
    return Image.fromarray(tinted.round().astype(np.uint8))


def shown(image: Pixels, soft: np.ndarray, mask: Pixels) -> dict[str, Image.Image]:
    """What one looks at of an output, by name: its mask, 0 and 255; its soft map [H, W] in grey; the mask over the picture."""
    return {
        "mask": Image.fromarray(255 * mask),
        "soft": Image.fromarray((255 * soft).round().astype(np.uint8)),
        "overlay": overlay(image, mask),
    }


def outline(on: np.ndarray, width: int) -> np.ndarray:
    """The positions of an object, bool [H, W], that lie within `width` of its border; the picture's edge is none."""
    inner = on
    for _ in range(width):
        padded = np.pad(inner, 1, mode="edge")
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return on & ~inner


def sheet(image: Pixels, maps: Mapping[str, np.ndarray]) -> "Image.Image":
    """A picture and maps [h, w] in [0, 1] over it, each under its name, four a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 4
    rows = -(-(1 + len(maps)) // columns)
    height, width = image.shape[:2]
    figure = Figure(figsize=(columns * PANEL * width / height / 100, rows * (PANEL + 40) / 100), dpi=100, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    axes[0].imshow(image)
    axes[0].set_title("query")
    for axis, (name, values) in zip(axes[1 : 1 + len(maps)], maps.items(), strict=True):
        axis.imshow(values, cmap="cividis", vmin=0, vmax=1, extent=(0, width, height, 0))
        axis.set_title(name)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def save_picture(path: Path, image: Image.Image) -> None:
    """As PNG, whole or not at all."""
    with replacing(path) as partial:
        image.save(partial, "PNG")


def _open(path: Path | Uploaded) -> Image.Image:
    """A whole image. Raises `UserError`."""
    source, formats = (path, None) if isinstance(path, Path) else (BytesIO(path.content), UPLOADED)
    try:
        with Image.open(source, formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{path}: found {image.width}x{image.height} pixels; allowed: {MAX_PIXELS} in all")
            image.load()
            return image.copy()
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: not found") from None
    except Exception as error:  # Pillow raises many kinds on damaged bytes
        raise UserError(f"{path}: not a whole, readable image ({one_line(error)})") from None
