"""The index: size, pixels per class and sums of every listed image and mask, from which the folds' lists are made.

Building it decodes every file once. A later build opens the changed files only: the sums are remembered by path, size and time of
change in `.stat.json` beside the index, which is a cache and no artifact.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from symnet.artifacts import Provenance, canonical, digest, file_digest, read_table, write_table, write_text
from symnet.data.forked import forked_map
from symnet.data.images import BadFile, check_image, check_same_size
from symnet.data.readers import SPLITS, Reader, Split
from symnet.errors import UserError
from symnet.progress import progress

COLUMNS = ["split", "image", "width", "height", "pixels", "image_sha256", "mask_sha256"]
SKIPPED_COLUMNS = ["split", "image", "file", "reason"]
WORKERS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Row:
    """One image: its size, and (class index, pixels) ascending, 0 and 255 included. `image_sha` is empty where only the mask exists."""

    split: str
    image: str
    width: int
    height: int
    pixels: tuple[tuple[int, int], ...]
    image_sha: str
    mask_sha: str  # of the mask's file; of the drawn array where it has none


@dataclass(frozen=True)
class Skipped:
    """An image left out since `file` (a name without folder) cannot be used."""

    split: str
    image: str
    file: str
    reason: str


@dataclass(frozen=True)
class Index:
    """All images, train list first, in the order of the lists; what was left out; `inputs`: the sha256 of lists or annotations."""

    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...] = ()
    inputs: tuple[tuple[str, str], ...] = ()


Sums = dict[str, list[int | str] | None]  # path to size, time of change, sha256; None: no such file
Item = tuple[Split, str]
Done = tuple[Row | Skipped, Sums]


class Stamps:
    """sha256 of files, remembered by path, size and time of change."""

    def __init__(self, known: Sums | None = None) -> None:
        self.known = known or {}
        self.seen: Sums = {}

    def sha(self, path: Path) -> str:
        """sha256 of the file, computed only where size or time differ from the remembered ones; empty where there is none.

        Of a folder, of the names in it.
        """
        now, known = _stat(path), self.known.get(str(path))
        if now is None:
            self.seen[str(path)] = None
            return ""
        if known is not None and known[:2] == now:
            sha = str(known[2])
        else:
            sha = digest(sorted(inside.name for inside in path.iterdir())) if path.is_dir() else file_digest(path)
        self.seen[str(path)] = [*now, sha]
        return sha

    def current(self) -> bool:
        """Whether every remembered file still has its size and time."""
        return all(_stat(path) == (known and known[:2]) for path, known in self.known.items())


def _stat(path: Path | str) -> list[int | str] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def build_index(
    reader: Reader,
    classes: int,
    previous: Index | None = None,
    bad_files: Literal["refuse", "skip"] = "refuse",
    workers: int = WORKERS,
    masks_only: bool = False,
    stamps: Stamps | None = None,
) -> Index:
    """Read every listed image and mask, or take its row from `previous` where both files (and, for drawn masks, the annotations) are equal.

    classes: number of classes; masks hold 0..classes and 255. bad_files: raise at the first unusable file, or leave its image out
    and record it. masks_only: an absent image is no fault (a damaged one is). Raises `UserError`, also for an image in both splits.
    """
    stamps = stamps if stamps is not None else Stamps()
    listed = [(split, image) for split in SPLITS for image in reader.ids(split)]
    both = sorted({image for split, image in listed if split == "train"} & {image for split, image in listed if split == "test"})
    if both:
        raise UserError(f"{reader.sources('test')[0]}: image {both[0]} is in the train list, too ({len(both)} such); allowed: one of them")
    inputs = tuple(sorted((f"{split}{i}", stamps.sha(path)) for split in SPLITS for i, path in enumerate(reader.sources(split))))
    previous = previous or Index(())
    old = {(row.split, row.image): row for row in previous.rows}
    changed = {name.rstrip("0123456789") for name, _ in set(inputs) ^ set(previous.inputs)}  # splits

    def work(item: Item) -> Done:
        split, image = item
        own = Stamps(stamps.known)  # what this item looks at: a process can only send it
        try:
            row = _reusable(reader, old.get(item), split, image, own, split not in changed, masks_only)
            return row or _read_row(reader, split, image, classes, own, masks_only), own.seen
        except BadFile as error:
            if bad_files == "refuse":
                raise
            return Skipped(split, image, error.path.name, error.reason), own.seen

    drawn = reader.mask_path(*listed[0]) is None  # drawing holds the interpreter's lock
    rows = []
    for row, seen in progress((forked_map if drawn else _threaded_map)(work, listed, workers), len(listed), "folds"):
        rows.append(row)
        stamps.seen |= seen
    return Index(tuple(r for r in rows if isinstance(r, Row)), tuple(r for r in rows if isinstance(r, Skipped)), inputs)


def _threaded_map(work: Callable[[Item], Done], listed: list[Item], workers: int) -> Iterator[Done]:
    """`work` over threads, results in order: decoding and hashing release the interpreter's lock."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield from pool.map(work, listed)
    finally:
        pool.shutdown(cancel_futures=True)


def _reusable(
    reader: Reader, row: Row | None, split: Split, image: str, stamps: Stamps, same_sources: bool, masks_only: bool
) -> Row | None:
    """The previous row, if its image and what decides its mask are unchanged."""
    if row is None or (not row.image_sha and not masks_only) or stamps.sha(reader.image_path(split, image)) != row.image_sha:
        return None
    mask_path = reader.mask_path(split, image)
    same_mask = same_sources if mask_path is None else stamps.sha(mask_path) == row.mask_sha
    return row if same_mask else None


def _read_row(reader: Reader, split: Split, image: str, classes: int, stamps: Stamps, masks_only: bool) -> Row:
    image_path, mask_path = reader.image_path(split, image), reader.mask_path(split, image)
    image_sha, mask_sha = stamps.sha(image_path), stamps.sha(mask_path) if mask_path else ""
    mask = reader.mask(split, image)
    height, width = mask.shape
    if image_sha or not masks_only:
        check_same_size(check_image(image_path), (width, height), image_path, mask_path or image_path)
    counts = np.bincount(mask.ravel(), minlength=256)
    pixels = tuple((int(value), int(counts[value])) for value in np.flatnonzero(counts))
    return Row(split, image, width, height, pixels, image_sha, mask_sha or hashlib.sha256(mask.tobytes()).hexdigest())


def write_index(folder: Path, index: Index, settings: str) -> None:
    """Write `index.csv` and `skipped.csv` into `folder`, each only if its content changed. settings: digest of what decides them."""
    provenance = Provenance(stage="index", settings=settings, inputs=dict(index.inputs))
    skipped = [[s.split, s.image, s.file, s.reason] for s in index.skipped]
    write_table(folder / "skipped.csv", SKIPPED_COLUMNS, skipped, provenance, if_changed=True)
    rows = [[r.split, r.image, r.width, r.height, " ".join(f"{c}:{n}" for c, n in r.pixels), r.image_sha, r.mask_sha] for r in index.rows]
    write_table(folder / "index.csv", COLUMNS, rows, provenance, if_changed=True)


def read_index(folder: Path) -> tuple[Index, str]:
    """The index in `folder` and the digest of the settings it was made with. Raises `UserError`."""
    table, provenance = read_table(folder / "index.csv", "index")
    skipped, _ = read_table(folder / "skipped.csv", "index")
    rows = tuple(
        Row(r["split"], r["image"], int(r["width"]), int(r["height"]), _pixels(r["pixels"]), r["image_sha256"], r["mask_sha256"])
        for r in table
    )
    return Index(rows, tuple(Skipped(**s) for s in skipped), tuple(sorted(provenance.inputs.items()))), provenance.settings


def _pixels(text: str) -> tuple[tuple[int, int], ...]:
    pairs = (pair.split(":") for pair in text.split())
    return tuple((int(value), int(count)) for value, count in pairs)


def read_stamps(folder: Path, settings: str) -> Stamps | None:
    """The sums remembered in `folder`, if they belong to these settings and to the index that lies there now; else None."""
    try:
        found = json.loads((folder / ".stat.json").read_text(encoding="utf-8"))
        fits = found["settings"] == settings and found["index"] == _stat(folder / "index.csv")
        return Stamps(found["files"]) if fits else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_stamps(folder: Path, settings: str, stamps: Stamps) -> None:
    """Remember the sums of all files that this build looked at. Last of all writes: nothing is trusted before it."""
    write_text(folder / ".stat.json", canonical({"settings": settings, "index": _stat(folder / "index.csv"), "files": stamps.seen}))
