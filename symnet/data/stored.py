"""Reading the image store that `symnet.data.store` writes. It gives the pixels that the files would give, or an error.

A store can change no pixel: of each image it is used only where it holds what the job's lists name, else the files are read. So a job
need not wait for it, and one that runs while the store is made goes over to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from symnet.artifacts import digest, file_digest, read_json
from symnet.config_data import DataSettings, ProtocolSettings
from symnet.data.images import Pixels
from symnet.data.readers import Reader, Split
from symnet.errors import UserError

if TYPE_CHECKING:
    from symnet.data.folds import FoldList, ListRow
    from symnet.data.index import Row

STAGE = "store"
_Place = tuple[Path, str, int, int, int]  # shard, its sha256, pixels before the image, height, width


@dataclass(frozen=True)
class Store:
    """A store's manifest, there or not yet, and the sums of what the job's lists name: (split, image) -> `source_sum`."""

    manifest: Path
    sums: Mapping[tuple[str, str], str]

    @classmethod
    def of_lists(cls, manifest: Path, lists: Mapping[Split, "FoldList"]) -> "Store":
        """The store for a job that reads these lists."""
        return cls(manifest, {(split, row.image): source_sum(row) for split, found in lists.items() for row in found.rows})


class StoredReader(Reader):
    """Images and masks from a store, pixel for pixel those of the reader `behind`, which knows the files.

    A shard's sum is checked once a process, when the first of its images is asked for. Nothing stays open: any number of threads and of
    processes, forked or not, may read at once.
    """

    def __init__(self, behind: Reader, store: Store, settings: str) -> None:
        """settings: `pixels_digest` of those in force; a store made with others is not used."""
        self.classes, self._behind, self._store, self._settings = behind.classes, behind, store, settings
        self._rows: dict[tuple[str, str], _Place] | None = None

    def ids(self, split: Split) -> list[str]:
        """Image ids of a split, in the order of its lists."""
        return self._behind.ids(split)

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
        """The index mask, uint8 [H, W]. Raises `UserError` where its shard is damaged, and as the reader behind."""
        place = self._place(split, image)
        if place is None:
            return self._behind.mask(split, image)
        path, sha, start, height, width = place
        return _read_bytes(path, _checked(path, sha)[1] + start, height * width).reshape(height, width)

    def load(self, split: Split, image: str) -> tuple[Pixels, Pixels]:
        """The image, RGB uint8 [H, W, 3], and its mask, uint8 [H, W]. Raises as `mask`."""
        place = self._place(split, image)
        if place is None:
            return self._behind.load(split, image)
        path, sha, start, height, width = place
        pixels = _read_bytes(path, _checked(path, sha)[0] + 3 * start, 3 * height * width)
        return pixels.reshape(height, width, 3), self.mask(split, image)

    def _place(self, split: Split, image: str) -> _Place | None:
        """Where the store has the image; None where it is not there, or made of other files."""
        if self._rows is None:
            if not self._store.manifest.is_file():
                return None
            self._rows = self._read()
        place = self._rows.get((split, image))
        return place if place and place[0].is_file() else None  # shards go when the store is made anew

    def _read(self) -> dict[tuple[str, str], _Place]:
        payload, _ = read_json(self._store.manifest, STAGE)
        rows: dict[tuple[str, str], _Place] = {}
        for shard in payload["shards"] if payload["settings"] == self._settings else ():
            path, start = self._store.manifest.parent / shard["file"], 0
            for split, image, height, width, sources in shard["rows"]:
                if self._store.sums.get((split, image)) == sources:
                    rows[split, image] = path, shard["sha256"], start, height, width
                start += height * width
        return rows


@cache
def _checked(path: Path, sha: str) -> tuple[int, int]:
    """Where `images` and `masks` start in the file of a shard, once it is known to be whole. Looked at once a process."""
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
