"""Where an episode's features come from: the cache, or the images themselves. Both give the same `EpisodeBatch`.

A source works in steps, so that the first can run ahead in a thread: `load` reads rows on the host, `send` brings them to the device, and
`made` makes block maps of them, a function of tensors alone. `only` is the same source for those who have episode records, and need few
of the maps.
"""

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from symnet.base_learner import BaseLearner
from symnet.config import Settings
from symnet.data.device_transforms import crop, transform
from symnet.data.images import Pixels
from symnet.data.packing import Packed, Plan, pack, plan_augment, plan_fit
from symnet.data.readers import Reader, Split, open_reader
from symnet.data.stored import Store
from symnet.data.transforms import class_table, draw
from symnet.features import FIXED, LOADERS, FeatureCache, View, forward, keeps_maps, make_view, view_generator
from symnet.runtime import send


@dataclass(frozen=True)
class Request:
    """One image wanted for an episode of class `wanted`. `seed`: which augmentation; None: the fixed test transform. `view`: the
    augmented view of that number in its place, whatever class it shows.
    """

    image: str
    wanted: int
    seed: tuple[int, ...] | None = None
    view: int | None = None


@dataclass(frozen=True)
class Features:
    """Features and masks of n rows; masks are index masks at the network's size."""

    maps: list[Tensor]  # [n, C_i, H_i, W_i]
    base: Tensor | None  # [n, 1 + base classes, H, W], of the first rows at least; None of `Source.only`
    mask: Tensor  # [n, S, S] uint8


Columns = dict[str, Tensor]


class Loader(Protocol):
    """What a test asks for rows. `device`: where features are made.

    `blocks`: the block maps that it gives, and no base logits; None: all of both. `kept_as`: a type that holds the maps exactly.
    """

    device: torch.device
    blocks: Sequence[int] | None
    kept_as: torch.dtype

    def load(self, requests: Sequence[Request]) -> Any:
        """Read rows on the host. Safe in another thread."""

    def features(self, loaded: Any) -> Features:
        """Block maps of what `load` returned, on the device."""


class Source(Loader, Protocol):
    """What training asks for rows, beside. `side` is that of the backbone's levels. `features` is `made` of what was sent."""

    side: int

    def send(self, loaded: Any) -> Columns:
        """What `load` returned, on the device, a row an image; the shapes depend on the number of rows alone."""

    def made(self, columns: Columns, answered: int | None = None) -> Features:
        """Block maps of what was sent. answered: base logits of the first rows only, where they cost anything; None: of all."""

    def only(self, blocks: Sequence[int]) -> "Source":
        """The same, which gives these block maps alone and no base logits."""

    def masks(self, requests: Sequence[Request]) -> Tensor:
        """The index masks that `load` would read, [n, S, S] uint8, and nothing else. Safe in another thread."""


class CacheSource:
    """Rows of a feature cache: a training request is served by one of the image's views that shows the class."""

    def __init__(self, manifest: Path, device: torch.device) -> None:
        self.cache = FeatureCache(manifest)
        self.device, self.side = device, self.cache.side
        self.blocks: Sequence[int] | None = None
        self.kept_as = torch.float16 if self.cache.dtype == "float16" else torch.float32
        self._shown: dict[str, list[tuple[int, frozenset[int]]]] = {}
        views = [(row, index) for row, index in self.cache.rows.items() if row[1] != FIXED]
        for (image, _), index in views:
            mask = self.cache.read([index], ["mask"])["mask"][0, ::8, ::8]
            self._shown.setdefault(image, []).append((index, frozenset(mask.unique().tolist())))

    def load(self, requests: Sequence[Request]) -> dict[str, Tensor]:
        """Columns of the cache, in order."""
        rows = [self._row(request) for request in requests]
        names = ("mask", *(["base"] if self.blocks is None else []))
        return self.cache.read(rows, names) | {"maps": self.cache.maps(rows, self.blocks)} | self.cache.scales(rows, self.blocks)

    def send(self, loaded: Columns) -> Columns:
        """To the device, as they are stored."""
        return {name: send(value, self.device) for name, value in loaded.items()}

    def made(self, columns: Columns, answered: int | None = None) -> Features:
        """As float32."""
        maps = self.cache.split(columns["maps"], self.blocks, columns.get("scales"))
        return Features(maps, columns.get("base"), columns["mask"])

    def features(self, loaded: Columns) -> Features:
        """Both."""
        return self.made(self.send(loaded))

    def only(self, blocks: Sequence[int]) -> "CacheSource":
        """The same cache, of which nothing else is read."""
        found = copy.copy(self)
        found.blocks = blocks
        return found

    def masks(self, requests: Sequence[Request]) -> Tensor:
        """One column of the cache, in order."""
        return self.cache.read([self._row(request) for request in requests], ["mask"])["mask"]

    def _row(self, request: Request) -> int:
        if request.seed is None:
            return self.cache.rows[request.image, FIXED]
        views = self._shown[request.image]
        showing = [index for index, shown in views if request.wanted in shown] or [index for index, _ in views]
        return showing[int(np.random.default_rng(request.seed).integers(len(showing)))]


class _Images:
    """Images of a split, read in threads."""

    kept_as = torch.float32

    def __init__(self, settings: Settings, reader: Reader, split: Split, base: BaseLearner, device: torch.device) -> None:
        self.settings, self.reader, self.split, self.base, self.device = settings, reader, split, base.to(device), device
        self.side = base.backbone.side(settings.pixels.size)
        self._pool = ThreadPoolExecutor(LOADERS)
        self.blocks: Sequence[int] | None = None

    def only(self, blocks: Sequence[int]) -> Self:
        """The same images; all of the backbone runs, and the rest is dropped."""
        found = copy.copy(self)
        found.blocks = blocks
        return found

    def send(self, loaded: Any) -> Columns:
        """Images, normalised, and their masks."""
        raise NotImplementedError

    @torch.no_grad()
    def made(self, columns: Columns, answered: int | None = None) -> Features:
        """All images through the backbone as one batch; of its maps and base logits, what was asked for."""
        if self.blocks is None:
            return Features(*forward(self.base, columns["images"], answered), columns["mask"])
        maps = self.base.backbone(columns["images"])
        return Features([maps[i] for i in self.blocks], None, columns["mask"])

    def features(self, loaded: Any) -> Features:
        """Both."""
        return self.made(self.send(loaded))


class ImageSource(_Images):
    """Images read, transformed and passed through the backbone anew each time: tests too large to cache, and training without a cache."""

    def load(self, requests: Sequence[Request]) -> list[View]:
        """Decoded and transformed images, in parallel."""
        return list(self._pool.map(self._view, requests))

    def send(self, loaded: list[View]) -> Columns:
        """Each image and mask, stacked."""
        images, masks = (torch.stack([getattr(view, name) for view in loaded]).to(self.device) for name in ("image", "mask"))
        return {"images": images, "mask": masks}

    def masks(self, requests: Sequence[Request]) -> Tensor:
        """The images are read and transformed as well: what a crop shows of a mask depends on them."""
        return torch.stack([view.mask for view in self.load(requests)])

    def _view(self, request: Request) -> View:
        if request.seed is None:
            return make_view(self.settings, self.reader, self.split, (request.image, FIXED), self.base.classes)
        if request.view is not None:
            return make_view(self.settings, self.reader, self.split, (request.image, request.view), self.base.classes)
        row = (request.image, 0)
        return make_view(self.settings, self.reader, self.split, row, self.base.classes, request.wanted, _draw_seed(request.seed))


class DeviceImageSource(_Images):
    """The same images, transformed on the device, all rows at once; the host reads them and draws the random numbers."""

    def load(self, requests: Sequence[Request]) -> Packed:
        """Images, masks and plans in one buffer, page-locked where the device is a GPU; read in parallel."""
        return pack(list(self._pool.map(self._item, requests)), pin=self.device.type == "cuda")

    def send(self, loaded: Packed) -> Columns:
        """In one copy, and transformed."""
        pixels = self.settings.pixels
        images, mask = transform(loaded.to(self.device), pixels.size, pixels.antialias, self._table)
        return {"images": images, "mask": mask}

    def masks(self, requests: Sequence[Request]) -> Tensor:
        """On the device: the images are read and packed, but not transformed."""
        return crop(self.load(requests).to(self.device), self.settings.pixels.size, self._table)[0]

    @cached_property
    def _table(self) -> Tensor | None:
        """What may be seen of a mask: in training images, the base classes."""
        return torch.from_numpy(class_table(self.base.classes)).to(self.device) if self.split == "train" else None

    def _item(self, request: Request) -> tuple[Pixels, Pixels, Plan]:
        image, mask = self.reader.load(self.split, request.image)
        shape, pixels = (mask.shape[0], mask.shape[1]), self.settings.pixels
        if request.seed is None:
            return image, mask, plan_fit(shape, pixels.size)
        if request.view is not None:
            rng = view_generator((request.image, request.view), self.settings.features.seed)
            return image, mask, plan_augment(shape, draw(pixels, rng), pixels.size, pixels.keep)
        rng = view_generator((request.image, 0), _draw_seed(request.seed))
        return image, mask, plan_augment(shape, draw(pixels, rng), pixels.size, pixels.keep, request.wanted)


class ViewSource(CacheSource):
    """The views of a cache that keeps no maps: they are computed anew each time, the same but for the rounding of a cache."""

    def __init__(self, manifest: Path, images: ImageSource | DeviceImageSource) -> None:
        super().__init__(manifest, images.device)
        self.images, self.kept_as, self._rows = images, images.kept_as, list(self.cache.rows)

    def load(self, requests: Sequence[Request]) -> Any:
        """Images of the views."""
        views = [self._rows[self._row(request)][1] for request in requests]
        return self.images.load([replace(r, view=None if view == FIXED else view) for r, view in zip(requests, views, strict=True)])

    def send(self, loaded: Any) -> Columns:
        """As images are sent."""
        return self.images.send(loaded)

    def made(self, columns: Columns, answered: int | None = None) -> Features:
        """All of them through the backbone as one batch."""
        return self.images.made(columns, answered)

    def only(self, blocks: Sequence[int]) -> "ViewSource":
        """The same views; all of the backbone runs, and the rest is dropped."""
        found = copy.copy(self)
        found.images, found.blocks = self.images.only(blocks), blocks
        return found


class Remembered:
    """A source whose features stay on the device, as far as `room` bytes go: for those who ask for the same rows together again.

    It is the first that can be done without where memory runs out: `forget`.
    """

    def __init__(self, source: Loader, room: int) -> None:
        self.device, self.blocks, self.kept_as = source.device, source.blocks, source.kept_as
        self._source, self._room = source, room
        self._held: dict[tuple[Request, ...], Features] = {}

    def load(self, requests: Sequence[Request]) -> tuple[tuple[Request, ...], Any]:
        """Nothing is read of rows that are there."""
        rows = tuple(requests)
        return rows, None if rows in self._held else self._source.load(requests)

    def features(self, loaded: tuple[tuple[Request, ...], Any]) -> Features:
        """As they are remembered, or made, and remembered where there is room."""
        rows, read = loaded
        if rows in self._held:
            return self._held[rows]
        found = self._source.features(read)
        size = found.mask.nbytes + sum(m.nbytes for m in (*found.maps, *([] if found.base is None else [found.base])))
        if size <= self._room:
            self._room -= size
            self._held[rows] = found
        return found

    def forget(self) -> bool:
        """Make room, and remember nothing any more. Returns whether there was anything. Not between a `load` and its `features`."""
        held, self._room = bool(self._held), 0
        self._held.clear()
        return held


def _draw_seed(seed: tuple[int, ...]) -> int:
    return int(np.random.default_rng(seed).integers(1 << 31))


def open_source(
    settings: Settings,
    data_root: Path,
    split: Split,
    features: Path | None,
    base: BaseLearner,
    device: torch.device,
    store: Store | None = None,
) -> Source:
    """The cache where there is one, else the images, from their store where there is one."""
    if features is not None and keeps_maps(features):
        return CacheSource(features, device)
    source: type[ImageSource | DeviceImageSource] = ImageSource if device.type == "cpu" else DeviceImageSource
    images = source(settings, open_reader(settings.data, settings.protocol, data_root, store=store), split, base, device)
    return images if features is None else ViewSource(features, images)
