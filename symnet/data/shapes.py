"""The embedded data set: 20 classes of drawn objects in the layout of VOC, a pure function of its settings.

    {out}/JPEGImages/{id}.jpg               RGB, longer side `side`
    {out}/SegmentationClassAug/{id}.png     index PNG with VOC's palette: 0, 1..20, and 255 round every object
    {out}/ImageSets/{train,test}.txt        ids, one a line
    {out}/shapes.json                       settings and counts; written last

Classes meet mostly inside their serial fold, so that the `drop` rule leaves most training images in every fold.
"""

import multiprocessing
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from symnet.artifacts import Provenance, write_json
from symnet.config_data import ShapesSettings
from symnet.data.classes import SHAPES
from symnet.data.images import IGNORE, encode_mask
from symnet.data.shapes_draw import draw_scene
from symnet.data.shapes_parts import SILHOUETTES, Rng
from symnet.errors import UserError
from symnet.progress import progress

assert tuple(SILHOUETTES) == SHAPES
GROUP = 5  # classes a serial fold
MIXED = 0.25  # share of images that may show classes of several folds
IMAGES, MASKS, LISTS, MARKER = "JPEGImages", "SegmentationClassAug", "ImageSets", "shapes.json"
PREFIX = "shapes_"
SPLITS = ("train", "test")
_ASPECTS = ((1.0, 1.0), (1.0, 7 / 9), (7 / 9, 1.0))  # (width, height) over the longer side
_QUALITY = 92


def draw_shapes(settings: ShapesSettings, out: Path, workers: int, provenance: Provenance | None = None) -> None:
    """Draw the data set into `out`, whole or not at all, in `workers` processes; any number of them gives the same bytes.

    A data set drawn earlier is replaced. Raises `UserError` where `out` holds anything else.
    """
    _check_replaceable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    stem = f".{out.name}.{os.getpid()}-{secrets.token_hex(4)}"
    fresh, old = out.with_name(f"{stem}.partial"), out.with_name(f"{stem}.old")
    try:
        _draw_all(settings, fresh, workers, provenance or Provenance(stage="shapes"))
        if out.exists():
            out.replace(old)
        fresh.replace(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _check_replaceable(out: Path) -> None:
    if not out.exists():
        return
    entries = {path.name for path in out.iterdir()} if out.is_dir() else {out.name}
    # the marker alone does not tell: a workflow removes a job's outputs before it runs the job again
    ours = entries <= {IMAGES, MASKS, LISTS, MARKER} and all(path.name.startswith(PREFIX) for path in (out / IMAGES).glob("*"))
    if not ours:
        raise UserError(f"{out}: holds other things than a drawn data set ({min(entries)}); move them away or give another folder")


def _draw_all(settings: ShapesSettings, folder: Path, workers: int, provenance: Provenance) -> None:
    """Images, masks, lists, marker."""
    for name in (IMAGES, MASKS, LISTS):
        (folder / name).mkdir(parents=True)
    counts = {"train": settings.train_images, "test": settings.test_images}
    jobs = [(split, index) for split in SPLITS for index in range(counts[split])]
    shown: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}
    drawn = progress(_spread(partial(_draw_one, settings, folder), jobs, workers), len(jobs), "shapes")
    for (split, _), classes in zip(jobs, drawn, strict=True):
        shown[split].update(classes)
    for split in SPLITS:
        ids = [image_id(split, index) for index in range(counts[split])]
        (folder / LISTS / f"{split}.txt").write_text("".join(f"{image}\n" for image in ids), encoding="utf-8")
    images = {name: {split: shown[split][index] for split in SPLITS} for index, name in enumerate(SHAPES, 1)}
    write_json(folder / MARKER, {"settings": settings.model_dump(), "images": images}, provenance)


def _spread(draw: "partial[set[int]]", jobs: list[tuple[str, int]], workers: int) -> Iterator[set[int]]:
    """`draw` of every job, in order."""
    if workers <= 1:
        yield from map(draw, jobs)
        return
    # spawn: a fork of a process that runs threads (torch, BLAS) may hang
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(draw, jobs, chunksize=16)


def _draw_one(settings: ShapesSettings, folder: Path, job: tuple[str, int]) -> set[int]:
    """Draw and write one image and its mask. Returns the classes it shows."""
    split, index = job
    image, mask = draw_image(settings, split, index)
    Image.fromarray(image).save(folder / IMAGES / f"{image_id(split, index)}.jpg", quality=_QUALITY, subsampling=0)
    (folder / MASKS / f"{image_id(split, index)}.png").write_bytes(encode_mask(mask))
    return set(np.unique(mask).tolist()) - {0, IGNORE}


def draw_image(settings: ShapesSettings, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Image `index` of a split, RGB uint8 [H, W, 3], and its mask, uint8 [H, W] in {0, 1..20, 255}: a function of seed, split and index."""
    rng, classes, width, height = plan_image(settings, split, index)
    return draw_scene(rng, classes, width, height)


def plan_image(settings: ShapesSettings, split: str, index: int) -> tuple[Rng, list[int], int, int]:
    """The image's random numbers, its classes (indices from 1, back to front), width and height."""
    rng = np.random.default_rng([settings.seed, SPLITS.index(split), index])
    width, height = (round(settings.side * share) for share in _ASPECTS[int(rng.integers(len(_ASPECTS)))])
    return rng, _choose_classes(rng, index), width, height


def _choose_classes(rng: Rng, index: int) -> list[int]:
    """1 to 3 classes (indices from 1), back to front. The first is given by `index`, so that all are equally frequent."""
    groups = len(SHAPES) // GROUP
    group, own = index % groups, index // groups % GROUP
    first = group * GROUP + own
    pool = range(len(SHAPES)) if rng.random() < MIXED else range(group * GROUP, (group + 1) * GROUP)
    others = rng.permutation([c for c in pool if c != first])[: int(rng.choice(3, p=(0.25, 0.5, 0.25)))]
    return [int(c) + 1 for c in rng.permutation([first, *others])]


def image_id(split: str, index: int) -> str:
    """`shapes_train_00000`"""
    return f"{PREFIX}{split}_{index:05d}"
