"""Run by test_kernels.py in a process of its own, where Triton interprets: kernels against their twins, on a CPU. Prints JSON."""

import json

import torch

from symnet.bench import twins
from symnet.kernels.correlation import clamped_mean
from symnet.kernels.join import joined
from symnet.model.correlation import EPS, correlation_maps


def masks(kind: str, pairs: int, positions: int) -> torch.Tensor:
    """bool [pairs, positions]; `mixed`: the first has nothing, the second everything."""
    found = torch.rand(pairs, positions) < 0.3
    if kind in ("empty", "full"):
        return torch.full_like(found, kind == "full")
    found[0], found[-1] = False, True
    return found


def correlation(batch: int, shots: int, channels: int, side: int, kind: str, dtype: torch.dtype) -> dict[str, float]:
    """Largest differences of the kernel, with norms and shots as `correlation_maps` treats them, over the largest value of each twin."""
    torch.manual_seed(side)
    query, support = torch.randn(batch, channels, side, side).to(dtype), torch.randn(batch, shots, channels, side, side).to(dtype)
    foreground = masks(kind, batch * shots, side * side)
    supports = support.flatten(0, 1).flatten(2)
    share = foreground / foreground.sum(1, keepdim=True).clamp(min=1)
    weight = share / (torch.linalg.vector_norm(supports, dim=1, dtype=torch.float32) + EPS)
    found = clamped_mean(query.flatten(2).transpose(1, 2), supports.transpose(1, 2), foreground, weight)
    found = found.view(batch, shots, -1).mean(1) / (torch.linalg.vector_norm(query.flatten(2), dim=1, dtype=torch.float32) + EPS)
    mask = foreground.view(batch, shots, side, side).float()
    plain = twins.correlation_maps([query.float()], [support.float()], mask)
    chunked = correlation_maps([query], [support], mask, budget=500)
    return {name: float((found.view_as(twin) - twin).abs().max()) for name, twin in (("plain", plain), ("chunked", chunked))}


def join(dtype: torch.dtype) -> float:
    """Largest difference of sum and ReLU, in units of the format's rounding."""
    order = torch.channels_last
    x, shortcut = (torch.randn(2, 40, 9, 7).to(dtype).to(memory_format=order) for _ in range(2))
    bias = torch.randn(40).to(dtype)
    total = (x.float() + shortcut.float() + bias.float()[:, None, None]).to(dtype)
    found, rectified = joined(x, shortcut, bias)
    worst = max(float((a.float() - b.float()).abs().max()) for a, b in ((found, total), (rectified, total.relu())))
    assert found.data_ptr() == x.data_ptr()
    return worst / torch.finfo(dtype).eps / float(total.abs().max())


if __name__ == "__main__":
    f32, f16, bf16 = torch.float32, torch.float16, torch.bfloat16
    shapes = {
        "one shot": (2, 1, 64, 10, "mixed", f32),
        "five shots": (2, 5, 40, 9, "mixed", f32),
        "a block and a bit": (1, 1, 65, 12, "mixed", f32),
        "whole blocks": (1, 2, 64, 8, "mixed", f32),
        "fewer than a block": (3, 1, 24, 3, "mixed", f32),
        "empty": (2, 1, 32, 9, "empty", f32),
        "full": (1, 5, 32, 9, "full", f32),
        "float16": (2, 5, 48, 9, "mixed", f16),
    }
    found = {name: correlation(*case) for name, case in shapes.items()}
    print(json.dumps({"correlation": found, "join": {str(dtype): join(dtype) for dtype in (f32, f16, bf16)}}))
