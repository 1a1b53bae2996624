"""TDC's correlation in one kernel: products, clamp and weighted sum over the support foreground, tile by tile.

A tile of products [rows, columns] lives in registers and is summed at once: the matrix of all query by all support positions never
exists. Only foreground columns are visited, whatever their number: it is read on the device. The twin: `model.correlation._all_at_once`.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from symnet.kernels import interpreted

# Rows, columns and channels a tile, warps, stages: measured on a H100 with bfloat16, 256 columns and 8 warps ran 327 to 419 TFLOP/s, 128
# columns 255 to 313. The smaller ones are for float32, whose tiles take twice the shared memory, and for older GPUs.
_TILES = ((128, 256, 64, 8, 3), (128, 128, 64, 8, 3), (128, 128, 32, 4, 3), (64, 64, 32, 4, 2))


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]
    query, support, index, count, weight, out, positions, shots,
    channels: tl.constexpr, precision: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, depth: tl.constexpr,
):  # fmt: skip
    """One block of query rows of one pair of query and support."""
    pair = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    channel = tl.arange(0, depth)
    known = row < positions
    of_query = query + (pair // shots) * positions * channels + row[:, None] * channels + channel[None, :]
    total = tl.zeros((rows,), tl.float32)
    inside = tl.load(count + pair)
    for start in range(0, inside, columns):
        column = start + tl.arange(0, columns)
        used = column < inside
        place = tl.load(index + pair * positions + column, mask=used, other=0)
        of_support = support + pair * positions * channels + place[:, None] * channels + channel[None, :]
        product = tl.zeros((rows, columns), tl.float32)
        for first in range(0, channels, depth):
            if channels % depth == 0:
                q = tl.load(of_query + first, mask=known[:, None], other=0.0)
                s = tl.load(of_support + first, mask=used[:, None], other=0.0)
            else:
                left = channel < channels - first
                q = tl.load(of_query + first, mask=known[:, None] & left[None, :], other=0.0)
                s = tl.load(of_support + first, mask=used[:, None] & left[None, :], other=0.0)
            product = tl.dot(q, tl.trans(s), product, input_precision=precision)
        share = tl.load(weight + pair * positions + place, mask=used, other=0.0)
        total += tl.sum(tl.maximum(product, 0.0) * share[None, :], 1)
    tl.store(out + pair * positions + row, total, mask=known)


_CONFIGS = [
    triton.Config(dict(zip(("rows", "columns", "depth"), tile, strict=True)), num_warps=warps, num_stages=stages)
    for *tile, warps, stages in _TILES
]


def _worth_trying(configs: list[triton.Config], arguments: dict[str, Any], **_: Any) -> list[triton.Config]:
    """Of float32 the small ones: its products are no matrix instructions, and a large tile of them takes minutes to compile."""
    return configs[2:] if arguments["query"].dtype == torch.float32 else configs


_tuned = triton.autotune(
    _CONFIGS[-1:] if interpreted() else _CONFIGS,
    key=["positions", "channels"],
    prune_configs_by={"early_config_prune": _worth_trying},
)(_kernel)


def clamped_mean(query: Tensor, support: Tensor, foreground: Tensor, weight: Tensor) -> Tensor:
    """sum_j weight_j max(<q_i, s_j>, 0) over foreground positions j: float32 [BK, P].

    query [B, P, C] and support [BK, P, C], copied where they are not contiguous; foreground bool [BK, P]; weight float32 [BK, P].
    """
    pairs, positions = foreground.shape
    query, support = query.contiguous(), support.contiguous()
    index = foreground.to(torch.uint8).argsort(dim=1, descending=True, stable=True).to(torch.int32)  # foreground first
    count = foreground.sum(1, dtype=torch.int32)
    out = torch.empty(pairs, positions, dtype=torch.float32, device=query.device)
    precision = "ieee" if not torch.backends.cuda.matmul.allow_tf32 else "tf32"  # of float32; 16 bits have but one way

    def grid(chosen: dict[str, int]) -> tuple[int, int]:
        return triton.cdiv(positions, chosen["rows"]), pairs

    arguments = (query, support, index, count, weight.contiguous(), out, positions, pairs // len(query))
    _tuned[grid](*arguments, channels=query.shape[2], precision=precision)
    return out
