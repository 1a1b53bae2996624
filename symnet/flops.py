"""What a method has to compute for an episode, counted on tensors that have a shape and no values (PyTorch's device `meta`).

Counted are the products, convolutions and matrix products, two operations a multiply-add, as `torch.utils.flop_counter` has them: of
the equations as they are written, whatever a machine does faster (Winograd's filtering, the kernels, positions left out).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from symnet.base_learner import BaseLearner
from symnet.methods.base import EpisodeBatch, Method

META = torch.device("meta")
T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """Parameters: `trained`, and `frozen` ones of the network that is read, with the base learner's head where its logits are.

    Operations of one episode: `cached`, with the block maps and base logits of its images at hand; `whole`, from the images on.
    """

    trained: int
    frozen: int
    cached: int
    whole: int


@torch.no_grad()
def work_of(method: Method, base: BaseLearner, size: int, text: int, images: bool = False) -> Work:
    """Of a method on episodes of its own number of shots. size: of the images; text: of the class vectors. All are moved to `meta`.

    images: whether it is fed images (`methods.Entry.images`): then the network is its own, and no map of another is at hand.
    """
    base.to(META)
    trained = parameters(method, trained=True)
    kept = parameters(method) - trained  # of a network of its own, what no gradient reaches
    method.to(META).eval().requires_grad_(False)
    read = [*([] if images else [base.backbone]), *([base.head] if method.reads_base else [])]
    image = torch.empty(1, 3, size, size, device=META)
    of_image, maps = operations(lambda: base.backbone(image))
    of_logits, logits = operations(lambda: base.head(base.backbone.levels(maps).high))
    blocks, rows = method.blocks(base.backbone, False), 1 + method.shots
    given = [image] if images else maps if blocks is None else [maps[i] for i in blocks]
    chosen = [m.expand(rows, *m.shape[1:]) for m in given]

    def answer() -> object:
        own = method.keep(base.backbone, chosen, False)
        masks = torch.empty(1, rows, size, size, dtype=torch.uint8, device=META)
        batch = EpisodeBatch(
            query=[x[:1] for x in own],
            support=[x[None, 1:] for x in own],
            query_mask=masks[:, 0],
            support_mask=masks[:, 1:],
            base_logits=logits,
            text=torch.empty(1, text, device=META),
            base_index=torch.empty(1, dtype=torch.int64, device=META),
            base_head=base.head,
        )
        return method.predict(base.backbone, batch)

    cached, _ = operations(answer)
    whole = cached + (0 if images else rows * of_image) + of_logits * method.reads_base
    return Work(trained, sum(map(parameters, read)) + (kept if images else 0), cached, whole)


def parameters(module: nn.Module, trained: bool = False) -> int:
    """How many numbers; trained: those that a gradient reaches alone."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad or not trained)


def operations(run: Callable[[], T]) -> tuple[int, T]:
    """Of the products in `run`, and what it returns."""
    with FlopCounterMode(display=False) as counter:
        found = run()
    return counter.get_total_flops(), found
