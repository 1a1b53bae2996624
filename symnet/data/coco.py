"""The layout of COCO: folders of images, and `instances_*.json` whose polygons are drawn into index masks."""

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from symnet.config import DataSettings, ProtocolSettings
from symnet.data.images import IGNORE, BadFile, Pixels
from symnet.data.readers import SPLITS, Reader, Split, check_id, check_once, require
from symnet.errors import UserError, one_line

if TYPE_CHECKING:
    from pycocotools.coco import COCO


class CocoReader(Reader):
    """Class indices by ascending category id. Annotations are parsed at the first use of a split, whole, in memory."""

    def __init__(
        self, settings: DataSettings, protocol: ProtocolSettings, classes: tuple[str, ...], data_root: Path, masks_only: bool = False
    ) -> None:
        """Check that folders and annotations are there. Raises `UserError`."""
        self.classes = classes
        self._crowd = protocol.crowd
        root = require(data_root / settings.root, "data.root", "folder", data_root)
        self._images: dict[str, Path] = {}
        self._annotations: dict[str, Path] = {}
        for split in SPLITS:
            for key, given in (("images", settings.images), ("annotations", settings.annotations)):
                if split not in given:
                    raise UserError(f"data.{key}.{split}: not set; the coco layout needs it")
            self._images[split] = root / settings.images[split]
            if not masks_only:
                require(self._images[split], f"data.images.{split}", "folder", data_root)
            self._annotations[split] = require(root / settings.annotations[split], f"data.annotations.{split}", "file", data_root)
        self._splits: dict[str, _Annotations] = {}

    def ids(self, split: Split) -> list[str]:
        """The stems of the images' file names, by ascending image id. Raises `UserError`."""
        return list(self._read(split).numbers)

    def image_path(self, split: Split, image: str) -> Path:
        """`{images[split]}/{file_name}`."""
        return self._images[split] / str(self._read(split).info(image)["file_name"])

    def mask_path(self, split: Split, image: str) -> None:
        """None: masks are drawn from the annotations."""
        return

    def mask(self, split: Split, image: str) -> Pixels:
        """Draw all polygons of all annotations, larger areas first, ties by annotation id; crowds as `protocol.crowd` says.

        uint8 [H, W]. Raises `BadFile` where an annotation cannot be drawn.
        """
        annotations = self._read(split)
        info = annotations.info(image)
        mask = np.zeros((info["height"], info["width"]), np.uint8)
        try:
            with _quiet():
                for shape in sorted(annotations.coco.imgToAnns[info["id"]], key=lambda shape: (-shape["area"], shape["id"])):
                    crowd = bool(shape.get("iscrowd"))
                    if crowd and self._crowd == "drop":
                        continue
                    region = annotations.coco.annToMask(shape).astype(bool)
                    mask[region] = IGNORE if crowd else annotations.indices[shape["category_id"]]
        except Exception as error:  # pycocotools raises many kinds
            raise BadFile(annotations.path, f"image {image}: an annotation cannot be drawn ({one_line(repr(error))})") from None
        return mask

    def sources(self, split: Split) -> list[Path]:
        """The annotations."""
        return [self._annotations[split]]

    def _read(self, split: Split) -> "_Annotations":
        if split not in self._splits:
            self._splits[split] = _Annotations(self._annotations[split], self.classes)
        return self._splits[split]


class _Annotations:
    """One parsed file: `numbers` maps an id (file stem) to COCO's image id, `indices` a category id to a class index."""

    def __init__(self, path: Path, classes: tuple[str, ...]) -> None:
        self.path = path
        self.coco = _parse(path)
        categories = sorted(self.coco.cats.values(), key=lambda category: category["id"])
        names = tuple(str(category["name"]) for category in categories)
        if names != classes:
            wrong = next((f"{a!r} for {b!r}" for a, b in zip(names, classes, strict=False) if a != b), f"{len(names)} categories")
            raise UserError(f"{path}: found {wrong}; data.classes has {len(classes)}: it must name the categories by ascending id")
        self.indices = {category["id"]: index for index, category in enumerate(categories, start=1)}
        images = [self.coco.imgs[number] for number in sorted(self.coco.imgs)]
        if not images:
            raise UserError(f"{path}: no image found")
        for image in images:
            check_id(str(image["file_name"]), path)
        stems = check_once([Path(image["file_name"]).stem for image in images], path)
        self.numbers = {stem: image["id"] for stem, image in zip(stems, images, strict=True)}

    def info(self, image: str) -> dict[str, Any]:
        """COCO's record of an image: id, file_name, height, width."""
        return self.coco.imgs[self.numbers[image]]


_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide a warning of numpy 2 about pycocotools 2.0.11's own arrays. Under a lock, since filters belong to the whole process."""
    with _one_at_a_time, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        yield


def _parse(path: Path) -> "COCO":
    from pycocotools.coco import COCO  # here: the other layouts never need it

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(path))
        for image in coco.imgs.values():
            _ = image["file_name"], image["height"], image["width"]
        return coco
    except (ValueError, AssertionError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a whole COCO annotation file ({type(error).__name__}: {one_line(error)})") from None
