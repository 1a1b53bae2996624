"""Where an episode's features come from: a cache here, the images themselves in `image_sources`. Both give the same `EpisodeBatch`.

A source works in steps, so that the first can run ahead in a thread: `load` reads rows on the host, `send` brings them to the device, and
`made` makes block maps of them, a function of tensors alone. `only` is the same source for those who have episode records, and need few
of the maps.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from symnet.features import FIXED, FeatureCache
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

    def __init__(self, manifest: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        """dtype: of the maps that are made; what they are stored as is the cache's own."""
        self.cache, self.dtype = FeatureCache(manifest), dtype
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
        """In the number format that was asked for, in which the head works faster than in float32 on a GPU."""
        maps = self.cache.split(columns["maps"], self.blocks, columns.get("scales"))
        return Features([m.to(self.dtype) for m in maps], columns.get("base"), columns["mask"])

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
