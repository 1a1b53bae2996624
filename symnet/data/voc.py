"""The layout of PASCAL VOC: a folder of images, a folder of index PNGs, text files of ids."""

from pathlib import Path

from symnet.config_data import DataSettings
from symnet.data.images import Pixels, read_mask
from symnet.data.readers import SPLITS, Reader, Split, check_id, check_once, place_of, require
from symnet.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png")


SPLIT_SEED = 0  # of the split by `data.test_share`


class VocReader(Reader):
    """Images `{images[split]}/{id}.jpg` (.jpeg, .png), masks `{masks}/{id}.png`, lists of ids one a line.

    Without any list, every mask is an image of the set, in the order of the ids, and `data.test_share` splits them.
    """

    def __init__(self, settings: DataSettings, classes: tuple[str, ...], data_root: Path, masks_only: bool = False) -> None:
        """Check that folders and lists are there. Raises `UserError`."""
        assert settings.masks is not None
        self.classes = classes
        root = require(data_root / settings.root, "data.root", "folder", data_root)
        self._masks = require(root / settings.masks, "data.masks", "folder", data_root)
        self._images: dict[str, Path] = {}
        self._lists: dict[str, list[Path]] = {}
        self._test_share = None if settings.lists else settings.test_share
        for split in SPLITS:
            if split not in settings.images or (settings.lists and not settings.lists.get(split)):
                key = "images" if split not in settings.images else "lists"
                raise UserError(f"data.{key}.{split}: not set; the {settings.source} layout needs it")
            self._images[split] = root / settings.images[split]
            if not masks_only:
                require(self._images[split], f"data.images.{split}", "folder", data_root)
            self._lists[split] = [require(root / name, f"data.lists.{split}", "file", data_root) for name in settings.lists.get(split, ())]

    def ids(self, split: Split) -> list[str]:
        """The lists one after the other; an id that an earlier list held already is passed over. Twice in one list: `UserError`."""
        if self._test_share is not None:
            every = sorted(check_id(path.stem, self._masks) for path in self._masks.glob("*.png"))
            if not every:
                raise UserError(f"{self._masks}: no PNG found; data.masks needs one an image, or data.lists names the images")
            return [image for image in every if (place_of(image, SPLIT_SEED) < self._test_share) == (split == "test")]
        united: dict[str, None] = {}
        for path in self._lists[split]:
            united |= dict.fromkeys(read_ids(path))
        if not united:
            raise UserError(f"{', '.join(map(str, self._lists[split]))}: no image id found; data.lists.{split} needs one a line")
        return list(united)

    def image_path(self, split: Split, image: str) -> Path:
        """The first of .jpg, .jpeg and .png that exists, else the .jpg."""
        paths = [self._images[split] / (image + extension) for extension in EXTENSIONS]
        return next((path for path in paths if path.exists()), paths[0])

    def mask_path(self, split: Split, image: str) -> Path:
        """`{masks}/{image}.png`."""
        return self._masks / f"{image}.png"

    def mask(self, split: Split, image: str) -> Pixels:
        """The index PNG, uint8 [H, W]. Raises `BadFile`."""
        return read_mask(self.mask_path(split, image), len(self.classes))

    def sources(self, split: Split) -> list[Path]:
        """The lists; the folder of masks where there are none."""
        return self._lists[split] or [self._masks]


def read_ids(path: Path) -> list[str]:
    """The image ids of a text file, blank lines passed over: one a line, or the field's `JPEGImages/ID.jpg SegmentationClass/ID.png`.

    Raises `UserError` naming the file.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8; expected one image id a line") from None
    return check_once([check_id(_stem_of_pair(line.strip()), path) for line in lines if line.strip()], path)


def _stem_of_pair(line: str) -> str:
    """The common stem of an image's and a mask's path; a line of another form as it is."""
    pair = [Path(part) for part in line.split()]
    return pair[0].stem if len(pair) == 2 and pair[0].stem == pair[1].stem and all(part.suffix for part in pair) else line
