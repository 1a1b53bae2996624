"""3x3 convolutions of a test on a CPU by Winograd's minimal filtering F(6x6, 3x3) (Lavin and Gray, 2016).

Of a tile of 8x8 values, 6x6 sums of 9 products are made by 64 products in place of 324, between three linear maps: of the weights, once;
of the tile; of the products. In float32 the result differs from the library's by some 1e-5 of its largest value.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

TILE = 6  # side of what a tile gives
READ = TILE + 2  # side of what it reads
POINTS = (0, 1, -1, 2, -2, 0.5, -0.5)  # where polynomials are multiplied, and at infinity: small ones, of the least rounding
LEAST = 4  # tiles along a side: smaller maps are faster by the library, since the weights are seven times as many
PIECE, CHANNELS = 128, 32  # tiles at a time, and of their maps channels at a time: what a core's cache holds

_transformed: WeakKeyDictionary[nn.Module, tuple[tuple[int, int], Tensor]] = WeakKeyDictionary()


def convolve(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """`layer(x)` without gradient, of a layer of 3x3, padding 1, no bias: float32 [B, C, H, H] on a CPU -> [B, O, H, H]."""
    tiles = -(-x.shape[-1] // TILE)
    if tiles < LEAST:  # of one image, so that what it gets does not depend on the batch
        return F.conv2d(x, layer.weight, padding=1)
    return _by_tiles(x, _weight(layer), tiles)


def _by_tiles(x: Tensor, weight: Tensor, tiles: int) -> Tensor:
    """x [B, C, H, H], weight [64, O, C]; tiles: along a side, which they cover."""
    (batch, _, side, _), (_, out, channels) = x.shape, weight.shape
    maps, more = _maps(), TILE * tiles + 1 - side
    x = F.pad(x, (1, more, 1, more))
    image, channel, row, column = x.stride()
    read = x.as_strided((READ, READ, channels, batch, tiles, tiles), (row, column, channel, image, TILE * row, TILE * column))
    found = x.new_empty(batch, out, TILE * tiles, TILE * tiles)
    write = found.view(batch, out, tiles, TILE, tiles, TILE).permute(3, 5, 1, 0, 2, 4)  # [6, 6, O, B, tiles, tiles]
    for images, rows in _pieces(batch, tiles):
        count = len(range(batch)[images]) * len(range(tiles)[rows]) * tiles
        values = x.new_empty(READ**2, channels, count)
        for some in _slices(channels, CHANNELS):
            torch.mm(maps.tile, read[:, :, some, images, rows].reshape(READ**2, -1), out=values[:, some].flatten(1))
        products = torch.bmm(weight, values)  # [64, O, count]
        for some in _slices(out, CHANNELS):
            into = write[:, :, some, images, rows]
            into.copy_(torch.mm(maps.products, products[:, some].flatten(1)).view(into.shape))
    return found[..., :side, :side].contiguous()


def _pieces(batch: int, tiles: int) -> Iterator[tuple[slice, slice]]:
    """Images, and rows of tiles in them: some whole images at a time, or some rows of one."""
    for images in _slices(batch, max(PIECE // tiles**2, 1)):
        for rows in _slices(tiles, max(PIECE // tiles, 1)):
            yield images, rows


def _slices(count: int, step: int) -> Iterator[slice]:
    return (slice(start, start + step) for start in range(0, count, step))


def _weight(layer: nn.Conv2d) -> Tensor:
    """[64, O, C], kept until the layer's weights change."""
    own = layer.weight.detach()
    key = (own.data_ptr(), own._version)
    if layer not in _transformed or _transformed[layer][0] != key:
        _transformed[layer] = key, torch.einsum("kt,oct->koc", _maps().weight, own.double().flatten(2)).float().contiguous()
    return _transformed[layer][1]


class _Maps(NamedTuple):
    """Linear maps of squares, row by row: each is its map along one side, times that along the other."""

    tile: Tensor  # [64, 64]
    weight: Tensor  # [64, 9] float64
    products: Tensor  # [36, 64]


@lru_cache(1)
def _maps() -> _Maps:
    """Toom and Cook's: sums of products are polynomials multiplied, and those are multiplied point by point."""
    points = np.array(POINTS)
    others = [np.delete(points, i) for i in range(len(points))]
    scale = np.array([np.prod(point - other) for point, other in zip(points, others, strict=True)])
    tile = np.array([*(np.pad(np.poly(other)[::-1], (0, 1)) for other in others), np.poly(points)[::-1]])  # [8, 8]
    weight = np.vstack([points[:, None] ** np.arange(3) / scale[:, None], [0, 0, 1]])  # [8, 3]
    products = np.vstack([points[:, None] ** np.arange(TILE), np.eye(TILE)[-1]]).T  # [6, 8]
    both = [torch.from_numpy(np.kron(one, one)) for one in (tile, weight, products)]
    return _Maps(both[0].float(), both[1], both[2].float())
