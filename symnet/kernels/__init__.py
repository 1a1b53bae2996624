"""Fused kernels in Triton, for GPUs. Each has a plain twin in PyTorch, which is what runs everywhere else.

`TRITON_INTERPRET=1`, set before the first import, runs them on a CPU: so they are tested.
"""

import importlib.util
import os
from functools import cache

import torch
from torch import Tensor

TYPES = (torch.float16, torch.bfloat16, torch.float32)


@cache
def installed() -> bool:
    """Whether there is a Triton to compile with."""
    return importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Whether kernels run in the interpreter, where there is nothing to tune."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def fits(*tensors: Tensor) -> bool:
    """Whether kernels can be used on these: on a GPU, of a number format they know, and no gradient is asked for."""
    asked = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return not asked and all(tensor.is_cuda and tensor.dtype in TYPES for tensor in tensors) and installed()
