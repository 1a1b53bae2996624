"""Bilinear resizing, and the sides it resizes to."""

import torch
import torch.nn.functional as F
from torch import Tensor

from symnet.model.constants import constant


def resize(x: Tensor, size: int, corners: bool = True) -> Tensor:
    """[B, C, h, h] -> [B, C, size, size], as two small matrix products.

    Equal to `F.interpolate(..., mode="bilinear", align_corners=corners)`; its gradient is two products as well, where the library's
    scatters with atomics. Corners are aligned nearly everywhere in this family of models.
    """
    if x.shape[-1] == size and x.shape[-2] == size:
        return x
    rows = interpolation_matrix(x.shape[-2], size, x.device, x.dtype, corners)
    columns = interpolation_matrix(x.shape[-1], size, x.device, x.dtype, corners)
    return rows @ x @ columns.T


@constant
def interpolation_matrix(n: int, m: int, device: torch.device, dtype: torch.dtype, corners: bool = True) -> Tensor:
    """[m, n]: the weights of n samples in each of m interpolated ones."""
    eye = torch.eye(n, device=device, dtype=torch.promote_types(dtype, torch.float32))
    return F.interpolate(eye[None], size=m, mode="linear", align_corners=corners)[0].T.contiguous().to(dtype)


def pool(x: Tensor, size: int) -> Tensor:
    """[B, C, h, h] -> [B, C, size, size]: `F.adaptive_avg_pool2d`, as two small matrix products."""
    rows, columns = (_pooling_matrix(n, size, x.device, x.dtype) for n in x.shape[-2:])
    return rows @ x @ columns.T


@constant
def _pooling_matrix(n: int, m: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[m, n]: each row the mean of its samples."""
    eye = torch.eye(n, device=device, dtype=torch.promote_types(dtype, torch.float32))
    return F.adaptive_avg_pool1d(eye, m).T.contiguous().to(dtype)


def resize_mask(mask: Tensor, size: int) -> Tensor:
    """A {0, 1} mask [..., S, S] -> [..., size, size] in [0, 1], float32. Where S = 8n+1 and size = n+1 it samples, exactly."""
    height = mask.shape[-1]
    if (height - 1) % max(size - 1, 1) == 0 and size > 1:
        step = (height - 1) // (size - 1)
        return mask[..., ::step, ::step].float()
    return resize(mask.float(), size)


def nearest_mask(mask: Tensor, size: int) -> Tensor:
    """A {0, 1} mask [B, S, S] -> bool [B, size, size], by the nearest neighbour rule of `F.interpolate`."""
    return F.interpolate(mask.float().unsqueeze(1), (size, size), mode="nearest").squeeze(1) > 0.5


def default_scales(side: int) -> tuple[int, ...]:
    """The decoder's sides: 60/30/15/8 for side 60 (473 px), 81/40/20/10 for 81 (641 px), else halves rounded up."""
    if side == 81:
        return (81, 40, 20, 10)
    scales = [side]
    for _ in range(3):
        scales.append((scales[-1] + 1) // 2)
    return tuple(scales)
