"""The end of a residual block in one kernel: add shortcut and bias, keep the sum (a block map), and rectify it for the next block.

Apart, these are three passes that read and write the map seven times; here it is read twice and written twice.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 2048  # numbers a program


@triton.jit
def _kernel(x, shortcut, bias, rectified, numbers, channels: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    known = place < numbers
    total = tl.load(x + place, mask=known).to(tl.float32) + tl.load(shortcut + place, mask=known).to(tl.float32)
    total += tl.load(bias + place % channels, mask=known).to(tl.float32)
    total = total.to(x.dtype.element_ty)
    tl.store(x + place, total, mask=known)
    tl.store(rectified + place, tl.maximum(total, 0.0), mask=known)


def joined(x: Tensor, shortcut: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """x + shortcut + bias, written over x, and its ReLU. x and shortcut [B, C, H, W] in channels-last order, bias [C]."""
    order = torch.channels_last
    assert x.is_contiguous(memory_format=order)
    shortcut, rectified = shortcut.contiguous(memory_format=order), torch.empty_like(x)
    _kernel[(triton.cdiv(x.numel(), _BLOCK),)](x, shortcut, bias, rectified, x.numel(), channels=x.shape[1], block=_BLOCK)
    return x, rectified
