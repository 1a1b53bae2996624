"""Number formats inside the model: what is sensitive is float32, whatever the features are."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """The same in float32, where it has 16 bits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def exactly(device: torch.device) -> AbstractContextManager[object]:
    """Nothing is computed in less than the numbers' own format, whatever `in_format` stands around it."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)  # meta: shapes without numbers


def in_format(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Products of float32 weights are computed in `dtype`; float32: nothing is changed."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
