"""Tensors that depend on numbers alone: sides, channels, device, dtype."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")


def constant(make: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """`make`, each of its tensors made once and kept for good: a CUDA graph reads it where it lay when the graph was recorded.

    Without gradient, for use in and out of inference mode. What `torch.compile` makes of a caller holds `make` itself.
    """

    @functools.cache
    def kept(*arguments: Any, **named: Any) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return make(*arguments, **named)

    @functools.wraps(make)
    def found(*arguments: P.args, **named: P.kwargs) -> Tensor:
        if torch.compiler.is_compiling():
            return make(*arguments, **named)
        return kept(*arguments, **named)  # type: ignore[arg-type]

    return found
