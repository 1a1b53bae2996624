"""Fused kernels in Triton, for GPUs. Each has a plain twin in PyTorch, which is what runs everywhere else.

`TRITON_INTERPRET=1`, set before the first import, runs them on a CPU: so they are tested.
"""

import importlib.util
import os
import sys
from functools import cache

import torch
from torch import Tensor

from symnet.errors import one_line

TYPES = (torch.float16, torch.bfloat16, torch.float32)


@cache
def installed() -> bool:
    """Whether there is a Triton to compile with."""
    return importlib.util.find_spec("triton") is not None


@cache
def works(device: torch.device) -> bool:
    """Whether its kernels run on a device: a small one is tried, once. It is compiled there, with a C compiler and Python's headers."""
    if not installed():
        return False
    x = torch.zeros(1, 8, 1, 1, device=device)
    try:
        from symnet.kernels.join import joined

        joined(x, x.clone(), x.new_zeros(8))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whichever it is: plain calls compute the same
        print(f"Triton is installed but does not work on {device} ({one_line(error)[:100]}): plain calls", file=sys.stderr, flush=True)
        return False
    return True


def interpreted() -> bool:
    """Whether kernels run in the interpreter, where there is nothing to tune."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def fits(*tensors: Tensor) -> bool:
    """Whether kernels can be used on these: on a GPU where they work, of a number format they know, and no gradient is asked for."""
    asked = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return not asked and all(tensor.is_cuda and tensor.dtype in TYPES for tensor in tensors) and works(tensors[0].device)
