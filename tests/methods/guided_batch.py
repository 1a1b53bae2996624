"""Made-up episodes for methods whose head reads a prior mask, in float64, and the methods for them."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from symnet.backbones.base import Backbone, Levels
from symnet.config import Settings
from symnet.methods import method_class
from symnet.methods.base import EpisodeBatch
from symnet.methods.guided import Guided

SIZE, SIDE, BATCH, SHOTS = 65, 9, 4, 2
OWN = (3, 0, 3, 14)  # classes of the episodes among 15 base classes


class Plain(Backbone):
    """Three block maps."""

    block_channels = (6, 5, 7)
    groups = (1, 1, 1)
    mid_blocks = (0, 1)
    low_channels, mid_channels, high_channels = 6, 11, 7

    def entering(self, third: Tensor) -> Tensor:
        return third.relu()

    def last_stage(self, x: Tensor) -> list[Tensor]:
        return [torch.cat([x, x[:, :2].square()], 1)]

    def levels(self, blocks: list[Tensor]) -> Levels:
        return Levels(blocks[0], self.mid(blocks[:2]), blocks[2])

    def mid(self, chosen: list[Tensor]) -> Tensor:
        return torch.cat(chosen, 1)


def method_of(name: str, shots: int = SHOTS, **own: Any) -> Guided:
    """Eight channels, and no dropout; in training mode."""
    torch.manual_seed(0)
    settings = Settings.model_validate({"pixels": {"size": SIZE}, name: {"channels": 8, **own}})
    method = method_class(name)(settings, Plain(), shots, 3, SIDE).double()
    for module in method.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            module.p = 0.0
    assert isinstance(method, Guided)
    return method


def batch_of(shots: int = SHOTS) -> EpisodeBatch:
    """Four episodes; known pixels and objects differ from one to the next."""
    draw = torch.Generator().manual_seed(5)
    mask = torch.zeros(BATCH, 1 + shots, SIZE, SIZE, dtype=torch.uint8)
    for n in range(BATCH):
        for k in range(1 + shots):
            mask[n, k, 4 * n : 30 + 4 * n, 6 * k : 40 + 3 * n] = 1
    mask[:, :, 20:30] = 255
    mask[1, 0, :50] = 255
    shapes = [(channels, SIDE, SIDE) for channels in Plain().block_channels]
    return EpisodeBatch(
        query=[torch.randn(BATCH, *shape, generator=draw).double() for shape in shapes],
        support=[torch.randn(BATCH, shots, *shape, generator=draw).double() for shape in shapes],
        query_mask=mask[:, 0],
        support_mask=mask[:, 1:],
        base_logits=None,
        text=torch.zeros(BATCH, 3),
        base_index=torch.tensor(OWN),
    )


def part(batch: EpisodeBatch, rows: slice) -> EpisodeBatch:
    """Some of the episodes."""
    found = {name: value[rows] for name, value in vars(batch).items() if isinstance(value, Tensor)}
    return replace(batch, query=[m[rows] for m in batch.query], support=[m[rows] for m in batch.support], **found)


def turned(batch: EpisodeBatch) -> EpisodeBatch:
    """The shots in another order."""
    return replace(batch, support=[m.flip(1) for m in batch.support], support_mask=batch.support_mask.flip(1))
