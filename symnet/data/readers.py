"""What every data set layout offers the stages: image ids per split, images, masks, and the files that decide them."""

import abc
import hashlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from symnet.config_data import DataSettings, ProtocolSettings
from symnet.data.classes import class_names
from symnet.data.images import Pixels, check_same_size, read_image
from symnet.errors import UserError, one_line

if TYPE_CHECKING:
    from symnet.data.stored import Store

Split = Literal["train", "test"]
SPLITS: tuple[Split, Split] = ("train", "test")
MARK = "masks.json"  # in a folder of masks made here: what they were made from


class Reader(abc.ABC):
    """One data set. `classes` are the names, index 1 first; an image id is the stem of its file's name."""

    classes: tuple[str, ...]

    @abc.abstractmethod
    def ids(self, split: Split) -> list[str]:
        """Image ids of a split, in the order of its lists, each once. Raises `UserError`."""

    @abc.abstractmethod
    def image_path(self, split: Split, image: str) -> Path:
        """The image's file, whether it exists or not."""

    @abc.abstractmethod
    def mask_path(self, split: Split, image: str) -> Path | None:
        """The mask's own file; None where masks are drawn from the files of `sources`."""

    @abc.abstractmethod
    def mask(self, split: Split, image: str) -> Pixels:
        """The index mask, uint8 [H, W], values 0..len(classes) and 255. Raises `BadFile`."""

    @abc.abstractmethod
    def sources(self, split: Split) -> list[Path]:
        """The lists or annotations that say which images and masks a split has."""

    def load(self, split: Split, image: str) -> tuple[Pixels, Pixels]:
        """The image, RGB uint8 [H, W, 3], and its mask, uint8 [H, W]. Raises `BadFile`, also where their sizes differ."""
        path = self.image_path(split, image)
        pixels, mask = read_image(path), self.mask(split, image)
        check_same_size((pixels.shape[1], pixels.shape[0]), (mask.shape[1], mask.shape[0]), path, self.mask_path(split, image) or path)
        return pixels, mask


def open_reader(
    settings: DataSettings, protocol: ProtocolSettings, data_root: Path, masks_only: bool = False, store: "Store | None" = None
) -> Reader:
    """The reader for `data.source`, with its folders and lists checked to exist. Nothing is read yet.

    `masks_only`: the image folders may be missing (lists and folds need masks alone). `store`: where to read the same
    pixels from. Raises `UserError` saying what is missing.
    """
    # here, since all of them build on Reader
    from symnet.data.coco import CocoReader
    from symnet.data.voc import VocReader

    names = class_names(settings.classes)
    if settings.source == "coco":
        reader: Reader = CocoReader(settings, protocol, names, data_root, masks_only)
    else:
        reader = VocReader(settings, names, data_root, masks_only)
    if store is None:
        return reader
    from symnet.data.stored import StoredReader, pixels_digest

    return StoredReader(reader, store, pixels_digest(settings, protocol))


def require(path: Path, key: str, kind: Literal["folder", "file"], data_root: Path) -> Path:
    """`path`, if that folder or file is there. Raises `UserError` naming the key and where it is looked for."""
    if path.is_dir() if kind == "folder" else path.is_file():
        return path
    raise UserError(one_line(f"{key}: {kind} {path} not found; it is looked for under {data_root} (key data_root or SYMNET_DATA)"))


def place_of(image: str, seed: int) -> float:
    """A number in [0, 1) that depends on the id and the seed alone: splits by it move no other image when one comes or goes."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{image}".encode()).digest()[:6], "big") / 2**48


def check_id(image: str, where: Path) -> str:
    """`image`, if it can be the stem of a file name and no way out of a folder. Raises `UserError` naming the list."""
    if not image or ".." in image or image == "." or any(sign in "/\\" or not sign.isprintable() for sign in image):
        raise UserError(f"{where}: found image id {image!r}; allowed: the name of a file without folder and extension")
    return image


def check_once(ids: list[str], where: Path) -> list[str]:
    """`ids`, if none stands twice. Raises `UserError` naming the list and the id."""
    twice = [image for image, count in Counter(ids).items() if count > 1]
    if twice:
        raise UserError(f"{where}: image {twice[0]} is listed twice; allowed: once")
    return ids
