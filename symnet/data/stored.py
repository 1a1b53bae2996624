"""Reading the image store that `symnet.data.store` writes. It gives the pixels that the files would give, or an error."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from symnet.artifacts import digest, file_digest, read_json
from symnet.config import DataSettings, ProtocolSettings
from symnet.data.images import Pixels
from symnet.data.readers import Reader, Split
from symnet.errors import UserError

if TYPE_CHECKING:
    from symnet.data.folds import FoldList, ListRow
    from symnet.data.index import Row

STAGE = "store"
_Place = tuple[Path, str, int, int, int]  # shard, its sha256, pixels before the image, height, width


class StoredReader(Reader):
    """Images and masks from a store, pixel for pixel those of the reader `behind`, which knows the files.

    A shard's sum is checked once a process, when the first of its images is asked for. Nothing stays open: any number of threads and of
    processes, forked or not, may read at once.
    """

    def __init__(self, behind: Reader, manifest: Path, settings: str) -> None:
        """settings: `pixels_digest` of those in force. Raises `UserError` where the store was made with others."""
        payload = _read(manifest)
        if payload["settings"] != settings:
            raise UserError(f"{manifest}: the store was made with other settings (data, protocol.crowd); run `symnet store` again")
        self.classes, self._behind, self._manifest = behind.classes, behind, manifest
        self._rows: dict[tuple[str, str], _Place] = {}
        for shard in payload["shards"]:
            path, start = manifest.parent / shard["file"], 0
            for split, image, height, width, _ in shard["rows"]:
                self._rows[split, image] = path, shard["sha256"], start, height, width
                start += height * width

    def ids(self, split: Split) -> list[str]:
        """Image ids of a split in the order of its lists, those that the index skipped left out."""
        return [image for own, image in self._rows if own == split]

    def image_path(self, split: Split, image: str) -> Path:
        """The file that the image was decoded from."""
        return self._behind.image_path(split, image)

    def mask_path(self, split: Split, image: str) -> Path | None:
        """The file that the mask was decoded from, if it has its own."""
        return self._behind.mask_path(split, image)

    def sources(self, split: Split) -> list[Path]:
        """The lists or annotations."""
        return self._behind.sources(split)

    def mask(self, split: Split, image: str) -> Pixels:
        """The index mask, uint8 [H, W]. Raises `UserError` where its shard is damaged."""
        path, sha, start, height, width = self._place(split, image)
        return _read_bytes(path, _checked(path, sha)[1] + start, height * width).reshape(height, width)

    def load(self, split: Split, image: str) -> tuple[Pixels, Pixels]:
        """The image, RGB uint8 [H, W, 3], and its mask, uint8 [H, W]. Raises `UserError` where their shard is damaged."""
        path, sha, start, height, width = self._place(split, image)
        pixels = _read_bytes(path, _checked(path, sha)[0] + 3 * start, 3 * height * width)
        return pixels.reshape(height, width, 3), self.mask(split, image)

    def _place(self, split: Split, image: str) -> _Place:
        try:
            return self._rows[split, image]
        except KeyError:
            raise UserError(f"{self._manifest}: has no {split} image {image}; run `symnet store` again") from None


def check_lists(manifest: Path, lists: Mapping[Split, "FoldList"]) -> None:
    """Raise `UserError` unless the store holds every image that the lists name, decoded from the very files that they name."""
    held = {(split, image): sources for shard in _read(manifest)["shards"] for split, image, _, _, sources in shard["rows"]}
    for split, found in lists.items():
        for row in found.rows:
            if held.get((split, row.image)) != source_sum(row):
                state = "is another than the list has" if (split, row.image) in held else "is missing"
                raise UserError(f"{manifest}: {split} image {row.image} {state}; run `symnet store` again")


def _read(manifest: Path) -> dict[str, Any]:
    payload, _ = read_json(manifest, STAGE)
    return payload


@cache
def _checked(path: Path, sha: str) -> tuple[int, int]:
    """Where `images` and `masks` start in the file of a shard, once it is known to be whole. Looked at once a process."""
    if not path.is_file():
        raise UserError(f"{path}: shard not found; run `symnet store` again")
    if file_digest(path) != sha:
        raise UserError(f"{path}: shard does not match its sha256: damaged; delete it and run `symnet store` again")
    with h5py.File(path, "r") as file:
        return file["images"].id.get_offset(), file["masks"].id.get_offset()


def _read_bytes(path: Path, start: int, count: int) -> Pixels:
    try:
        found = np.fromfile(path, np.uint8, count, offset=start)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); run `symnet store` again") from None
    if found.size != count:
        raise UserError(f"{path}: cut short since it was checked; delete it and run `symnet store` again")
    return found


def source_sum(row: "Row | ListRow") -> str:
    """What an image and its mask are decoded from, in 16 digits."""
    return digest([row.image_sha, row.mask_sha])[:16]


def pixels_digest(data: DataSettings, protocol: ProtocolSettings) -> str:
    """sha256 of the settings that say which images and masks there are."""
    return digest({"data": data.model_dump(), "crowd": protocol.crowd})
