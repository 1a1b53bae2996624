"""The HDF5 cache of block maps, per fold, from the base learner's frozen backbone.

A cache is a manifest (a JSON artifact, the declared output) and `symnet.shards` beside it. One row is one view of one image: `view` -1
is the fixed test transform, 0.. are seeded augmentations. Its columns: `maps` [N], the numbers of all block maps in turn (their sides may
differ; the manifest's `shapes` [[C, H, W], ...] split them again), where they are 8 bits each with `scales` [2, sum of C]; `base`
[1 + n, H, W], the base learner's logits; `mask` [S, S], the index mask after the same transform; `placed` and `original`, (height, width)
in and before it. A training cache may hold neither maps nor logits (`kept` false): then who reads it computes them.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from symnet.artifacts import Provenance, digest, read_json, write_json
from symnet.base_learner import BaseLearner, load_base
from symnet.config import Settings
from symnet.data.episodes import holdout
from symnet.data.folds import FoldList, read_fold_list
from symnet.data.readers import Reader, Split, open_reader
from symnet.data.stored import Store
from symnet.data.transforms import augment, fit, only_classes
from symnet.errors import UserError
from symnet.precision import answering, format_name, precision_of
from symnet.rates import measure
from symnet.shards import Columns, Shards, remove_others, write_shards

STAGE = "features"
FIXED = -1
SHARD_BYTES = 1 << 28
BATCH = 8  # images that pass the backbone together
LOADERS = 4  # threads that read and transform images

Row = tuple[str, int]  # image, view


@dataclass(frozen=True)
class View:
    """One row before the backbone: image float32 [3, S, S], mask uint8 [S, S], (height, width) placed and original."""

    image: Tensor
    mask: Tensor
    placed: tuple[int, int]
    original: tuple[int, int]


def make_view(
    settings: Settings,
    reader: Reader,
    split: Split,
    row: Row,
    base_classes: Sequence[int] = (),
    wanted: int | None = None,
    draw: int | None = None,
) -> View:
    """Read and transform one row; a pure function of its arguments.

    `base_classes`: of training images, the classes that may be seen; others are painted background before the crop is chosen. `wanted`:
    the class whose foreground the crop must keep (None: any). `draw`: a seed in place of the cache's, for an augmentation that is never
    the same twice.
    """
    name, view = row
    image, mask = reader.load(split, name)
    if split == "train":
        mask = only_classes(mask, base_classes)
    original = (mask.shape[0], mask.shape[1])
    if view == FIXED:
        fitted = fit(image, mask, settings.pixels.size, settings.pixels.antialias)
        return View(fitted.image, fitted.mask, (fitted.height, fitted.width), original)
    rng = view_generator(row, settings.features.seed if draw is None else draw)
    pixels, truth = augment(image, mask, settings.pixels, rng, wanted)
    return View(pixels, truth, (settings.pixels.size,) * 2, original)


def view_generator(row: Row, seed: int) -> np.random.Generator:
    """What draws the augmentation of a row."""
    name, view = row
    return np.random.default_rng([seed, view, *name.encode()])


def compute(base: BaseLearner, views: Sequence[View], device: torch.device) -> tuple[list[Tensor], Tensor]:
    """Block maps [n, C_i, H_i, W_i] and base logits [n, 1 + classes, H, W] of views, on the device."""
    return forward(base, torch.stack([view.image for view in views]).to(device))


@torch.no_grad()
def forward(base: BaseLearner, images: Tensor, answered: int | None = None) -> tuple[list[Tensor], Tensor]:
    """As `compute`, of images [n, 3, S, S] on the base learner's device. answered: base logits of the first ones only; None: of all."""
    maps = base.backbone(images)
    return maps, base.head(base.backbone.levels([m[:answered] for m in maps]).high)


def train_rows(train: FoldList, held: FoldList, views: int) -> list[Row]:
    """Rows of the training cache: every view of every training image, the fixed view of the held-out ones."""
    return [(row.image, view) for row in train.rows for view in range(views)] + [(row.image, FIXED) for row in held.rows]


def make_features(
    settings: Settings,
    data_root: Path,
    lists: Path,
    split: Split,
    base_file: Path,
    out: Path,
    device: torch.device,
    provenance: Provenance,
    store: Store | None = None,
) -> None:
    """Write the cache of a fold's `split` (train or test list at `lists`). Raises `UserError` for images that cannot be read.

    store: where images are kept decoded.
    """
    fold_list = read_fold_list(lists)
    if split == "train":
        train, held = holdout(fold_list, settings.base.holdout, settings.base.seed)
        rows = train_rows(train, held, settings.features.train_views)
    else:
        rows = [(row.image, FIXED) for row in fold_list.rows]
    base = answering(load_base(base_file).to(device), precision_of(settings.features.precision, device).frozen, device.type == "cuda")
    reader = open_reader(settings.data, settings.protocol, data_root, store=store)
    size = settings.pixels.size
    with torch.no_grad():
        shapes = [m.shape[1:] for m in base.backbone(torch.zeros(1, 3, size, size, device=device))]
    dtype = (split == "train" and settings.features.train_dtype) or settings.features.dtype
    bytes_a_batch = BATCH * sum(shape.numel() for shape in shapes) * np.dtype(dtype).itemsize
    batches = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]

    def view(row: Row) -> View:
        return make_view(settings, reader, split, row, base.classes)

    kept = True
    if split == "train" and settings.features.train_cache == "auto":
        first = list(map(view, batches[0]))
        maps = _maps(dtype, batches[0], compute(base, first, device)[0])["maps"]
        again = (lambda: list(map(view, batches[0]))), LOADERS, (lambda: compute(base, first, device))
        rates = measure(len(first), *again, maps, out.parent, device)
        print(rates, flush=True)
        kept = rates.keep

    def columns(rows: Sequence[Row], views: list[View]) -> Columns:
        return _masks(views) | (_maps_and_logits(dtype, rows, views, base, device) if kept else {})

    key = digest([provenance.settings, provenance.code, provenance.inputs, split, kept])[:12]
    with ThreadPoolExecutor(LOADERS) as pool:

        def load(rows: Sequence[Row]) -> list[View]:
            return list(pool.map(view, rows))

        shards = write_shards(out, key, batches, load, columns, max(1, SHARD_BYTES // bytes_a_batch), f"features, {split}")
    payload = {
        "split": split,
        "rows": [list(row) for row in rows],
        "shapes": [list(shape) for shape in shapes],
        "side": base.backbone.side(size),
        "size": size,
        "precision": format_name(precision_of(settings.features.precision, device).frozen),
        "dtype": "float32" if dtype == "int8" else dtype,  # of what is read
        "kept": kept,
        "shards": shards,
    }
    write_json(out, payload, provenance)
    remove_others(out, key)


def _masks(views: Sequence[View]) -> Columns:
    """The columns that need no backbone."""
    return {
        "mask": torch.stack([view.mask for view in views]).numpy(),
        "placed": np.array([view.placed for view in views], np.int32),
        "original": np.array([view.original for view in views], np.int32),
    }


def _maps_and_logits(dtype: str, rows: Sequence[Row], views: Sequence[View], base: BaseLearner, device: torch.device) -> Columns:
    """The other columns of rows whose `views` these are."""
    maps, logits = compute(base, views, device)
    return _maps(dtype, rows, maps) | {"base": logits.float().cpu().numpy()}


def _maps(dtype: str, rows: Sequence[Row], maps: Sequence[Tensor]) -> Columns:
    """Block maps [n, C_i, H_i, W_i] as they are kept. Raises `UserError` where a number is not finite."""
    what = f"features of {rows[0][0]}..{rows[-1][0]}"
    found = as_numbers(torch.cat([m.flatten(1) for m in maps], 1), "float32" if dtype == "int8" else dtype, what)
    if dtype != "int8":
        return {"maps": found}
    return {name: value.cpu().numpy() for name, value in zip(("maps", "scales"), quantised(maps), strict=True)}


def as_numbers(values: Tensor, dtype: str, what: str) -> np.ndarray:
    """`values` in the number format of `features.dtype`. Raises `UserError` where one is not finite in it."""
    found = values.float().cpu().numpy().astype(dtype)
    if not np.isfinite(found).all():
        raise UserError(f"{what}: not finite as {dtype}; set features.dtype to float32")
    return found


def quantised(maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Block maps [n, C_i, H_i, W_i] -> their numbers in turn as uint8 [n, N], and scales [n, 2, sum of C]: 0 stands for the least number
    of an image's channel, and one more for a 255th of its range. So an exact zero of a map after a ReLU stays one.
    """
    numbers, scales = [], []
    for values in (m.float() for m in maps):
        low, high = values.flatten(2).aminmax(dim=2)  # [n, C]
        step = (high - low) / 255
        places = (values - low[..., None, None]) / step.where(step > 0, 1.0)[..., None, None]
        numbers.append(places.round().to(torch.uint8).flatten(1))
        scales.append(torch.stack([low, step], 1))
    return torch.cat(numbers, 1), torch.cat(scales, 2)


def keeps_maps(manifest: Path) -> bool:
    """Whether a cache holds maps; else who reads it computes them."""
    return bool(read_json(manifest, STAGE)[0]["kept"])


class FeatureCache:
    """Reads a cache. Every shard's sum is checked once, when the cache is opened. Not shared between processes: open one in each."""

    def __init__(self, manifest: Path) -> None:
        payload, self.provenance = read_json(manifest, STAGE)
        self.manifest = manifest
        self.shapes: list[list[int]] = payload["shapes"]
        self.size: int = payload["size"]
        self.side: int = payload["side"]
        self.dtype: str = payload["dtype"]
        self.rows: dict[Row, int] = {(image, view): i for i, (image, view) in enumerate(payload["rows"])}
        self._ends = np.cumsum([math.prod(shape) for shape in self.shapes]).tolist()
        self._shards = Shards(manifest, payload["shards"])

    def read(self, rows: Sequence[int], names: Sequence[str] = ("base", "mask", "placed", "original")) -> dict[str, Tensor]:
        """The named columns of rows, stacked in their order."""
        return {name: self._shards.read(rows, name) for name in names}

    def maps(self, rows: Sequence[int], blocks: Sequence[int] | None = None) -> Tensor:
        """Block maps of rows, their numbers in turn: [n, N]. blocks: those wanted, and nothing else is read; None: all."""
        if blocks is None:
            return self._shards.read(rows, "maps")
        return self._shards.read(rows, "maps", [slice(self._ends[i] - math.prod(self.shapes[i]), self._ends[i]) for i in blocks])

    def scales(self, rows: Sequence[int], blocks: Sequence[int] | None = None) -> dict[str, Tensor]:
        """What `split` needs beside the maps, [n, 2, C] of those blocks: nothing, unless they are int8."""
        if "scales" not in self._shards.columns():
            return {}
        parts = self._shards.read(rows, "scales").split([shape[0] for shape in self.shapes], 2)
        return {"scales": torch.cat([parts[i] for i in (range(len(parts)) if blocks is None else blocks)], 2)}

    def split(self, maps: Tensor, blocks: Sequence[int] | None = None, scales: Tensor | None = None) -> list[Tensor]:
        """What `maps` and `scales` read -> block maps [n, C_i, H_i, W_i], float32."""
        shapes = self.shapes if blocks is None else [self.shapes[i] for i in blocks]
        pieces = [m.float().unflatten(1, s) for m, s in zip(maps.split([math.prod(s) for s in shapes], 1), shapes, strict=True)]
        if scales is None:
            return pieces
        parts = scales[..., None, None].split([shape[0] for shape in shapes], 2)  # [n, 2, C_i, 1, 1]
        return [piece.mul_(part[:, 1]).add_(part[:, 0]) for piece, part in zip(pieces, parts, strict=True)]

    def close(self) -> None:
        """Close the shards."""
        self._shards.close()
