"""The form of a backbone in which it only answers: batch norm folded into the convolutions before it, one number format, fused calls.

The two halves of the backbone's own forward are traced, so that every backbone has this form, and what its maps are is said once. In the
trace a convolution takes the ReLU that follows it along, and the sum between them. A sum that is a block map is kept: there the join of
sum, bias and ReLU is one kernel. cuDNN's fused calls run on GPUs, in 16 bits; elsewhere the same modules do the same in plain calls.
"""

import copy
import operator
import sys
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from symnet import kernels
from symnet.backbones.base import Backbone, Levels
from symnet.errors import one_line

M = TypeVar("M", bound=nn.Module)
ALIGNED = 8  # input channels that cuDNN's kernels for 16 bits work in


class Folded(Backbone):
    """The block maps of `plain`, in a number format of choice; no gradient, no statistics to update."""

    def __init__(self, plain: Backbone, dtype: torch.dtype, channels_last: bool) -> None:
        super().__init__()
        for name in Backbone.__annotations__:
            setattr(self, name, getattr(plain, name))
        self.plain, self.dtype = plain, dtype
        self.order = torch.channels_last if channels_last else torch.contiguous_format
        device = next(plain.parameters()).device
        own, fused = fold(plain), channels_last and cudnn_fuses(device, dtype)
        nets = nn.ModuleList(_fused(own, part, fused) for part in ("until_last", "last_stage"))
        self.nets = nets.to(dtype).to(memory_format=self.order).requires_grad_(False)
        self.eval()

    def until_last(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """[B, 3, S, S] of any number format -> block maps as the plain backbone's."""
        maps, x = self.nets[0](images.to(self.dtype, memory_format=self.order))
        return list(maps), x

    def entering(self, third: Tensor) -> Tensor:
        """As the plain backbone's."""
        return self.plain.entering(third)

    def last_stage(self, x: Tensor) -> list[Tensor]:
        """As the plain backbone's, in this one's number format."""
        return list(self.nets[1](x.to(self.dtype, memory_format=self.order)))

    def levels(self, blocks: list[Tensor]) -> Levels:
        """As the plain backbone's, in the maps' number format."""
        return self.plain.levels(blocks)

    def mid(self, chosen: list[Tensor]) -> Tensor:
        """As the plain backbone's."""
        return self.plain.mid(chosen)


def fold(module: M) -> M:
    """A copy in eval mode in which each batch norm is part of the convolution that is defined right before it, and does nothing itself."""
    folded = copy.deepcopy(module).eval()
    for parent in list(folded.modules()):
        for (name, convolution), (after, norm) in pairwise(list(parent.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(convolution, norm))
                setattr(parent, after, nn.Identity())
    left = [name for name, part in folded.named_modules() if isinstance(part, nn.BatchNorm2d)]
    assert not left, f"batch norm without a convolution before it: {left}"
    return folded


@cache
def cudnn_fuses(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether cuDNN's fused convolutions run here: they are asked for a small one."""
    if device.type != "cuda" or dtype == torch.float32 or not hasattr(torch, "cudnn_convolution_add_relu"):
        return False
    x = torch.zeros(1, 64, 8, 8, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.zeros(64, 64, 1, 1, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    bias, where = torch.zeros(64, device=device, dtype=dtype), ((1, 1), (0, 0), (1, 1), 1)
    try:
        torch.cudnn_convolution_relu(x, weight, bias, *where)
        torch.cudnn_convolution_add_relu(x, weight, x, 1.0, bias, *where)
    except RuntimeError:
        return False
    return True


class _Fused(nn.Module):
    """A convolution and what it takes along; `fused`: in one call, until cuDNN has none for its shape."""

    def __init__(self, convolution: nn.Conv2d, fused: bool) -> None:
        super().__init__()
        self.convolution = convolution
        self.fused = fused and convolution.in_channels % ALIGNED == 0  # of an image's three channels it has slow ones at best
        names = ("stride", "padding", "dilation", "groups")
        self.where: dict[str, Any] = {name: getattr(convolution, name) for name in names}
        if convolution.bias is None:
            convolution.bias = nn.Parameter(convolution.weight.new_zeros(convolution.out_channels))

    def either(self, in_one: Callable[[], Tensor], apart: Callable[[], Tensor]) -> Tensor:
        """By the fused call, or by plain ones."""
        if self.fused:
            try:
                return in_one()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self.fused = False
                shape = f"{self.convolution.in_channels} to {self.convolution.out_channels} channels"
                print(f"cuDNN has no fused convolution of {shape} ({one_line(error)[:100]}): plain calls", file=sys.stderr, flush=True)
        return apart()


class _Rectified(_Fused):
    """The ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        c = self.convolution
        return self.either(
            lambda: torch.cudnn_convolution_relu(x, c.weight, c.bias, **self.where),
            lambda: F.relu(c(x), inplace=True),
        )


class _Added(_Fused):
    """A shortcut, and the ReLU of the sum."""

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        c = self.convolution
        return self.either(
            lambda: torch.cudnn_convolution_add_relu(x, c.weight, shortcut, 1.0, c.bias, **self.where),
            lambda: F.relu(c(x).add_(shortcut), inplace=True),
        )


class _Joined(_Fused):
    """A shortcut, and the ReLU of the sum, which is wanted as well: (sum, its ReLU)."""

    def forward(self, x: Tensor, shortcut: Tensor) -> tuple[Tensor, Tensor]:
        c = self.convolution
        if self.fused and kernels.fits(x, shortcut):
            from symnet.kernels.join import joined  # here: it needs Triton

            return joined(F.conv2d(x, c.weight, **self.where), shortcut, cast(Tensor, c.bias))
        total = c(x).add_(shortcut)
        return total, F.relu(total)


def _fused(folded: Backbone, part: str, fused: bool) -> fx.GraphModule:
    """The trace of a method of a folded backbone, in which every ReLU that can be is part of the convolution before it."""
    tracer = fx.Tracer()
    tracer.traced_func_name = part
    net = fx.GraphModule(folded, tracer.trace(folded))
    for node in list(net.graph.nodes):
        if isinstance(_module(net, node), nn.Identity):
            node.replace_all_uses_with(node.args[0])
            net.graph.erase_node(node)
    net.graph.eliminate_dead_code()  # a ReLU after the last block map
    for number, node in enumerate(list(net.graph.nodes)):
        if node.target is F.relu or isinstance(_module(net, node), nn.ReLU):
            _take_along(net, node, f"fused{number}", fused)
    net.graph.eliminate_dead_code()
    net.delete_all_unused_submodules()
    net.recompile()
    return net


def _take_along(net: fx.GraphModule, relu: fx.Node, name: str, fused: bool) -> None:
    """Let the convolution that feeds this ReLU, alone or in a sum with a shortcut, do it; where none does, leave it."""
    source = relu.args[0]
    assert isinstance(source, fx.Node)
    with net.graph.inserting_before(relu):
        if (convolution := _convolution(net, source)) is not None:
            net.add_submodule(name, _Rectified(convolution, fused))
            relu.replace_all_uses_with(net.graph.call_module(name, source.args))
        elif source.target is operator.add and (convolution := _convolution(net, source.args[0])) is not None:
            own, shortcut = source.args
            assert isinstance(own, fx.Node)
            projected = _convolution(net, shortcut)
            if projected is not None and convolution.bias is not None and projected.bias is not None:
                convolution.bias.data += projected.bias.data  # one addition in place of two
                projected.bias = None
            kept = len(source.users) > 1
            net.add_submodule(name, (_Joined if kept else _Added)(convolution, fused))
            with net.graph.inserting_before(source):  # the sum's other users may come before the ReLU
                found = net.graph.call_module(name, (own.args[0], shortcut))
                parts = [net.graph.call_function(operator.getitem, (found, place)) for place in (0, 1)] if kept else [found]
            relu.replace_all_uses_with(parts[-1])
            source.replace_all_uses_with(parts[0])


def _convolution(net: fx.GraphModule, node: object) -> nn.Conv2d | None:
    """The convolution that a node calls, if nothing else uses its answer."""
    found = _module(net, node) if isinstance(node, fx.Node) and len(node.users) == 1 else None
    return found if isinstance(found, nn.Conv2d) else None


def _module(net: fx.GraphModule, node: object) -> nn.Module | None:
    """The module that a node calls."""
    return net.get_submodule(str(node.target)) if isinstance(node, fx.Node) and node.op == "call_module" else None
