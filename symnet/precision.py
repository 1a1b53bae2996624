"""Number formats of a job, and the fast form of the frozen pair of backbone and base learner's head."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from symnet.backbones.folded import Folded, fold
from symnet.base_learner import BaseLearner
from symnet.errors import UserError

NAMES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """`frozen`: of the part without gradients. `trained`: of the products in the head, whose weights and losses are float32."""

    frozen: torch.dtype
    trained: torch.dtype

    def __str__(self) -> str:
        names = [format_name(dtype) for dtype in (self.frozen, self.trained)]
        return names[0] if names[0] == names[1] else f"{names[0]}, head {names[1]}"


def precision_of(name: str, device: torch.device) -> Precision:
    """What a setting means on a device; `auto`: the fastest safe one. Raises `UserError` for bfloat16 on a GPU without it.

    float16 trains nothing: its gradients would vanish without a scaled loss, which the objective has no need of otherwise.
    """
    has = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "auto":
        name = "float32" if device.type == "cpu" else "bfloat16" if has else "float16"
    if name == "bfloat16" and not has:
        raise UserError(f"precision: found bfloat16, which {torch.cuda.get_device_name(device)} lacks; use auto, float16 or float32")
    frozen = NAMES[name]
    return Precision(frozen, torch.float32 if frozen == torch.float16 else frozen)


def format_name(dtype: torch.dtype) -> str:
    """`bfloat16`, as settings say it."""
    return str(dtype).removeprefix("torch.")


def answering(base: BaseLearner, dtype: torch.dtype, channels_last: bool) -> BaseLearner:
    """The pair in the form in which it answers fastest: batch norm folded, one number format, fused calls (`backbones.folded`).

    In float32 on a CPU it is left as it is, and gives the bytes it always gave.
    """
    if dtype == torch.float32 and next(base.head.parameters()).device.type == "cpu":
        return base
    order = torch.channels_last if channels_last else torch.contiguous_format
    head = fold(base.head).to(dtype).to(memory_format=order).requires_grad_(False)
    return replace(base, backbone=Folded(base.backbone, dtype, channels_last), head=head)


def to_channels_last(module: nn.Module) -> None:
    """The weights of 2D convolutions, in place. `Module.to` refuses a module that has a parameter of five dimensions as well."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
