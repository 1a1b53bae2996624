"""The layout of COCO: folders of images, and `instances_*.json` whose polygons are drawn into index masks, now or once for all."""

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from symnet.artifacts import file_digest, read_json, read_table
from symnet.config_data import DataSettings, ProtocolSettings
from symnet.data.images import IGNORE, BadFile, Pixels, read_mask
from symnet.data.readers import MARK, SPLITS, Reader, Split, check_id, check_once, require
from symnet.errors import UserError, one_line

if TYPE_CHECKING:
    from pycocotools.coco import COCO

COLUMNS = ["image", "file_name"]  # of a split's table beside made masks


class CocoReader(Reader):
    """Class indices by ascending category id. Without made masks, annotations are parsed at the first use of a split, whole, in memory.

    With them (`data.masks`, from `symnet masks`) the annotations are not parsed, and may be absent.
    """

    def __init__(
        self, settings: DataSettings, protocol: ProtocolSettings, classes: tuple[str, ...], data_root: Path, masks_only: bool = False
    ) -> None:
        """Check that folders and annotations are there, and that made masks are of this rule and these classes. Raises `UserError`."""
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
            self._annotations[split] = root / settings.annotations[split]
            if settings.masks is None:
                require(self._annotations[split], f"data.annotations.{split}", "file", data_root)
        self._made = None if settings.masks is None else _Made(root / settings.masks, self._crowd, classes)
        self._splits: dict[str, _Annotations] = {}

    def ids(self, split: Split) -> list[str]:
        """The stems of the images' file names, by ascending image id. Raises `UserError`, also for masks made from other annotations."""
        if self._made:
            self._made.check(split, self._annotations[split])
            return list(self._made.names(split))
        return list(self._read(split).numbers)

    def image_path(self, split: Split, image: str) -> Path:
        """`{images[split]}/{file_name}`."""
        name = self._made.names(split)[image] if self._made else self._read(split).info(image)["file_name"]
        return self._images[split] / str(name)

    def mask_path(self, split: Split, image: str) -> Path | None:
        """`{masks}/{split}/{image}.png`; None where masks are drawn from the annotations."""
        return self._made.folder / split / f"{image}.png" if self._made else None

    def mask(self, split: Split, image: str) -> Pixels:
        """The made PNG, or the mask drawn from the annotations, uint8 [H, W]. Raises `BadFile`."""
        path = self.mask_path(split, image)
        return read_mask(path, len(self.classes)) if path else self._read(split).draw(image, self._crowd)

    def sources(self, split: Split) -> list[Path]:
        """The annotations; beside made masks, the split's table, which holds their sum."""
        return [self._made.table(split)] if self._made else [self._annotations[split]]

    def _read(self, split: Split) -> "_Annotations":
        if split not in self._splits:
            self._splits[split] = _Annotations(self._annotations[split], self.classes)
        return self._splits[split]


class _Made:
    """A folder of made masks."""

    def __init__(self, folder: Path, crowd: str, classes: tuple[str, ...]) -> None:
        """Raises `UserError` where `folder` is none, or its masks were drawn by another crowd rule or for other classes."""
        self.folder = folder
        if not (folder / MARK).is_file():
            raise UserError(f"data.masks: {folder} holds no made masks; `symnet masks` makes them, null draws them when they are needed")
        found, provenance = read_json(folder / MARK, "masks")
        if found.get("crowd") != crowd:
            raise self._other(f"protocol.crowd '{found.get('crowd')}', not '{crowd}'")
        if tuple(found["classes"]) != classes:
            raise self._other("other data.classes")
        self._sums = provenance.inputs
        self._names: dict[str, dict[str, str]] = {}

    def _other(self, what: str) -> UserError:
        return UserError(f"data.masks: {self.folder} was made with {what}; delete it or name another folder, and run `symnet masks`")

    def check(self, split: Split, annotations: Path) -> None:
        """Raise `UserError` where the annotations are there and are not those that the masks were drawn from."""
        if annotations.is_file() and file_digest(annotations) != self._sums[split]:
            raise self._other(f"another {annotations}")

    def table(self, split: Split) -> Path:
        """The table that lists the split's images."""
        return self.folder / f"{split}.csv"

    def names(self, split: Split) -> dict[str, str]:
        """Image id to file name, in order."""
        if split not in self._names:
            self._names[split] = {row["image"]: row["file_name"] for row in read_table(self.table(split), "masks")[0]}
        return self._names[split]


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

    def draw(self, image: str, crowd_rule: str) -> Pixels:
        """Draw all polygons of all annotations, larger areas first, ties by annotation id; crowds as `protocol.crowd` says.

        uint8 [H, W]. Raises `BadFile` where an annotation cannot be drawn.
        """
        info = self.info(image)
        mask = np.zeros((info["height"], info["width"]), np.uint8)
        try:
            with _quiet():
                for shape in sorted(self.coco.imgToAnns[info["id"]], key=lambda shape: (-shape["area"], shape["id"])):
                    crowd = bool(shape.get("iscrowd"))
                    if crowd and crowd_rule == "drop":
                        continue
                    region = self.coco.annToMask(shape).astype(bool)
                    mask[region] = IGNORE if crowd else self.indices[shape["category_id"]]
        except Exception as error:  # pycocotools raises many kinds
            raise BadFile(self.path, f"image {image}: an annotation cannot be drawn ({one_line(repr(error))})") from None
        return mask


_one_at_a_time = threading.Lock()
# a process forked while another thread holds it would wait for ever
os.register_at_fork(before=_one_at_a_time.acquire, after_in_parent=_one_at_a_time.release, after_in_child=_one_at_a_time.release)


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
