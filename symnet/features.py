"""The HDF5 cache of block maps, per fold, from the base learner's frozen backbone.

A cache is a manifest (a JSON artifact, the declared output) and shards beside it, `{manifest stem}-{key}/00000.h5`, at most
`SHARD_BYTES` each. A shard is written whole and its sha256 kept; a run that was killed goes on with the shards it finished, for
`key` says what they were made from. One row is one view of one image: `view` -1 is the fixed test transform, 0.. are seeded
augmentations. A shard holds, per row: `maps` [N], the numbers of all block maps in turn (their sides may differ; the manifest's `shapes`
[[C, H, W], ...] split them again); `base` [1 + n, H, W], the base learner's logits; `mask` [S, S], the index mask after the same
transform; `placed` and `original`, (height, width) in and before it.
"""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from symnet.artifacts import Provenance, digest, file_digest, read_json, replacing, write_json, write_text
from symnet.base_learner import BaseLearner, load_base
from symnet.config import Settings
from symnet.data.episodes import holdout
from symnet.data.folds import FoldList, read_fold_list
from symnet.data.readers import Reader, Split, open_reader
from symnet.data.stored import Store
from symnet.data.transforms import augment, fit, only_classes
from symnet.errors import UserError
from symnet.progress import progress

STAGE = "features"
FIXED = -1
SHARD_BYTES = 1 << 28
BATCH = 8  # images that pass the backbone together

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
def forward(base: BaseLearner, images: Tensor) -> tuple[list[Tensor], Tensor]:
    """As `compute`, of images [n, 3, S, S] on the base learner's device."""
    maps = base.backbone(images)
    return maps, base.head(base.backbone.levels(maps).high)


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
    base = load_base(base_file).to(device)
    reader = open_reader(settings.data, settings.protocol, data_root, store=store)
    size = settings.pixels.size
    key = digest([provenance.settings, provenance.code, provenance.inputs, split])[:12]
    folder = out.parent / f"{out.stem}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        shapes = [m.shape[1:] for m in base.backbone(torch.zeros(1, 3, size, size, device=device))]
    bytes_a_row = sum(shape.numel() for shape in shapes) * np.dtype(settings.features.dtype).itemsize
    per_shard = max(BATCH, SHARD_BYTES // bytes_a_row)
    shards = []
    pieces = [rows[i : i + per_shard] for i in range(0, len(rows), per_shard)]
    for number, piece in enumerate(progress(pieces, len(pieces), f"features, {split} shards")):
        path = folder / f"{number:05d}.h5"
        shards.append(
            {"file": f"{folder.name}/{path.name}", "rows": len(piece), "sha256": _shard(path, settings, reader, split, piece, base, device)}
        )
    payload = {
        "split": split,
        "rows": [list(row) for row in rows],
        "shapes": [list(shape) for shape in shapes],
        "side": base.backbone.side(size),
        "size": size,
        "dtype": settings.features.dtype,
        "shards": shards,
    }
    write_json(out, payload, provenance)
    for old in out.parent.glob(f"{out.stem}-*"):
        if old.is_dir() and old != folder:
            shutil.rmtree(old)


def _shard(path: Path, settings: Settings, reader: Reader, split: Split, rows: list[Row], base: BaseLearner, device: torch.device) -> str:
    """Write one shard, or find it whole from a run before. Returns its sha256."""
    note = path.with_suffix(".sha256")
    if path.is_file() and note.is_file() and note.read_text() == file_digest(path):
        return note.read_text()
    with replacing(path) as partial, h5py.File(partial, "w", track_order=False) as file:
        for start in range(0, len(rows), BATCH):
            piece = rows[start : start + BATCH]
            views = [make_view(settings, reader, split, row, base.classes) for row in piece]
            maps, logits = compute(base, views, device)
            joined = torch.cat([m.flatten(1) for m in maps], 1).cpu().numpy().astype(settings.features.dtype)  # [n, N]
            if not np.isfinite(joined).all():
                raise UserError(
                    f"features of {piece[0][0]}..{piece[-1][0]}: not finite as {settings.features.dtype}; set features.dtype to float32"
                )
            columns = {
                "maps": joined,
                "base": logits.float().cpu().numpy(),
                "mask": torch.stack([view.mask for view in views]).numpy(),
                "placed": np.array([view.placed for view in views], np.int32),
                "original": np.array([view.original for view in views], np.int32),
            }
            for name, values in columns.items():
                if start == 0:
                    file.create_dataset(name, (len(rows), *values.shape[1:]), values.dtype, track_times=False)
                file[name][start : start + len(piece)] = values
    sha = file_digest(path)
    write_text(note, sha)
    return sha


class FeatureCache:
    """Reads a cache. Every shard's sum is checked once, when the cache is opened. Not shared between processes: open one in each."""

    def __init__(self, manifest: Path) -> None:
        payload, self.provenance = read_json(manifest, STAGE)
        self.shapes: list[list[int]] = payload["shapes"]
        self.size: int = payload["size"]
        self.side: int = payload["side"]
        self.rows: dict[Row, int] = {(image, view): i for i, (image, view) in enumerate(payload["rows"])}
        self._starts = np.cumsum([0, *(shard["rows"] for shard in payload["shards"])])
        self._paths = [manifest.parent / shard["file"] for shard in payload["shards"]]
        for path, shard in zip(self._paths, payload["shards"], strict=True):
            if not path.is_file():
                raise UserError(f"{path}: shard of {manifest} not found; delete {manifest} and run again")
            if file_digest(path) != shard["sha256"]:
                path.unlink()
                raise UserError(f"{path}: shard does not match its sha256: damaged, now removed; delete {manifest} and run again")
        self._files: dict[int, h5py.File] = {}

    def read(self, rows: Sequence[int], names: Sequence[str] = ("maps", "base", "mask", "placed", "original")) -> dict[str, Tensor]:
        """The named columns of rows, stacked in their order."""
        columns: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for row in rows:
            shard = int(np.searchsorted(self._starts, row, side="right")) - 1
            if shard not in self._files:
                self._files[shard] = h5py.File(self._paths[shard], "r")
            for name in names:
                columns[name].append(self._files[shard][name][row - self._starts[shard]])
        return {name: torch.from_numpy(np.stack(values)) for name, values in columns.items()}

    def split(self, maps: Tensor) -> list[Tensor]:
        """The column `maps` [n, N] -> block maps [n, C_i, H_i, W_i], float32."""
        pieces = maps.float().split([math.prod(shape) for shape in self.shapes], 1)
        return [piece.unflatten(1, shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def close(self) -> None:
        """Close the shards."""
        for file in self._files.values():
            file.close()
        self._files.clear()
