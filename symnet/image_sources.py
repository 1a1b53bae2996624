"""Features made of images, anew each time: read and transformed on the host or on the device, the same views that a cache holds."""

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from symnet.base_learner import BaseLearner
from symnet.config import Settings
from symnet.data.device_transforms import crop, transform
from symnet.data.images import Pixels
from symnet.data.packing import Packed, Plan, pack, plan_augment, plan_fit
from symnet.data.readers import Reader, Split
from symnet.data.transforms import class_table, draw
from symnet.features import FIXED, LOADERS, View, forward, make_view, view_generator
from symnet.sources import CacheSource, Columns, Features, Request


class Images:
    """Images of a split, read in threads: what the sources below share."""

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


class ImageSource(Images):
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


class DeviceImageSource(Images):
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


def _draw_seed(seed: tuple[int, ...]) -> int:
    return int(np.random.default_rng(seed).integers(1 << 31))
