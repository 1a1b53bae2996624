"""The decoder's answer in a test on a CPU: what `Decoder.forward` computes, in an order that computes less.

1x1 convolutions and resizing are linear and commute: each scale's share of the join is made where it is small, and then resized. What is
resized to the full side and on to the next scale is resized once. Nothing is concatenated but small maps. 3x3 convolutions are Winograd's.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from symnet.model.decoder import Decoded, Decoder
from symnet.model.products import pointwise
from symnet.model.resize import interpolation_matrix, pool, resize
from symnet.model.winograd import convolve


def decode(
    decoder: Decoder,
    query: Tensor,
    prototype: Tensor,
    hyper: Tensor | None,
    priors: Sequence[Tensor],
    with_inner: bool = False,
    on_cpu: bool = False,
    shares: Sequence[Tensor] = (),
) -> Decoded:
    """`decoder(...)`; on_cpu: its `meta` alone, by `answer`. shares: as from `shares_of`, where they are at hand."""
    if not on_cpu:
        return decoder(query, prototype, hyper, priors, with_inner=with_inner)
    return Decoded(answer(decoder, query.shape[-1], shares or shares_of(decoder, query), prototype, hyper, priors), [], [])


def shares_of(decoder: Decoder, query: Tensor) -> list[Tensor]:
    """What the query [B, C, H, W] alone gives to the first convolution of each scale: [B, C, s, s] each. A test makes it once an image."""
    size, channels = query.shape[-1], query.shape[1]
    at_scales = [query if scale == size else pool(query, scale) for scale in decoder.scales]
    return [pointwise(_weight(merge)[:, :channels], x) for merge, x in zip(decoder.merge, at_scales, strict=True)]


def answer(
    decoder: Decoder, size: int, of_query: Sequence[Tensor], prototype: Tensor, hyper: Tensor | None, priors: Sequence[Tensor]
) -> Tensor:
    """`decoder(...).meta`, [B, 2, H, W]: of float32 on a CPU, without gradient or dropout.

    size: H, the query's side; of_query: as from `shares_of`; the rest as the decoder's.
    """
    channels = of_query[0].shape[1]
    shares: list[Tensor] = []
    x = of_query[0]
    for n, (scale, share) in enumerate(zip(decoder.scales, decoder.join.weight.split(channels, 1), strict=True)):
        maps = torch.cat([resize(m, scale) for m in (hyper, priors[n if len(priors) > 1 else 0]) if m is not None], 1)
        _, of_prototype, of_maps = _weight(decoder.merge[n]).split([channels, channels, maps.shape[1]], 1)
        bias = prototype @ of_prototype[:, :, 0, 0].T  # [B, C]
        y = pointwise(of_maps, maps, of_query[n] + bias[:, :, None, None]).relu_()  # [B, C, s, s]
        if n:
            own, finer = _weight(decoder.across[n - 1]).split(channels, 1)
            y += pointwise(finer, _through(x, size, scale), pointwise(own, y)).relu_()
        x = y + _refined(decoder.refine[n], y)
        shares.append(pointwise(share, x))
    x = _sum_at(size, shares).relu_()
    x += _refined(decoder.refine_joined, x)
    first, *_, last = decoder.classify
    return pointwise(_weight(last), convolve(cast(nn.Conv2d, first), x).relu_(), cast(Tensor, last.bias)[None, :, None, None])


def _refined(layers: nn.Module, x: Tensor) -> Tensor:
    """Both convolutions of `two_convolutions`."""
    for layer in cast(nn.Sequential, layers)[::2]:
        x = convolve(cast(nn.Conv2d, layer), x).relu_()
    return x


def _through(x: Tensor, size: int, scale: int) -> Tensor:
    """`resize(resize(x, size), scale)`, by one matrix along each side."""
    if x.shape[-1] == size:
        return resize(x, scale)
    there, back = (interpolation_matrix(n, m, x.device, x.dtype) for n, m in ((x.shape[-1], size), (size, scale)))
    both = back @ there
    return both @ x @ both.T


def _sum_at(size: int, maps: Sequence[Tensor]) -> Tensor:
    """Each map [B, C, s, s] resized to `size`, and their sum: the rows of all are resized in one product. One is at that size."""
    (own,), others = [m for m in maps if m.shape[-1] == size], [m for m in maps if m.shape[-1] != size]
    matrices = [interpolation_matrix(m.shape[-1], size, m.device, m.dtype) for m in others]
    wide = torch.cat([m @ matrix.T for m, matrix in zip(others, matrices, strict=True)], 2).flatten(0, 1)  # [BC, sum of s, size]
    rows = torch.cat(matrices, 1).expand(len(wide), -1, -1)
    return torch.baddbmm(own.flatten(0, 1), rows, wide).view_as(own)


def _weight(layer: nn.Module) -> Tensor:
    return cast(Tensor, layer.weight)
