"""Training by several processes: each has its share of every batch, and the gradients of the shares are summed.

Summed, not averaged: the losses are divided by what the masks of the whole batch tell, so the batch keeps its size. Whether to stop,
and whether memory was enough, travels between hosts: no GPU is waited for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from symnet.config import TrainSettings
from symnet.errors import UserError


@dataclass(frozen=True)
class Ranks:
    """The `count` processes that train a run together; this is number `rank`. The first writes all files."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def sum(self, values: Sequence[Tensor]) -> None:
        """Replace tensors of one type and device by their sums over all processes, the same bits on each. A GPU is not waited for."""
        if self.count == 1:
            return
        whole = torch.cat([value.flatten() for value in values])
        dist.all_reduce(whole)
        for value, total in zip(values, whole.split([value.numel() for value in values]), strict=True):
            value.copy_(total.view(value.shape))

    def any(self, flag: bool) -> bool:
        """Whether it holds in one of the processes; all have to ask."""
        if self.count == 1:
            return flag
        found = torch.tensor(flag, dtype=torch.uint8)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return bool(found)


ALONE = Ranks()


def check_shares(train: TrainSettings, count: int, whole_batch: bool = False) -> None:
    """Raises `UserError` where `count` processes cannot share a batch evenly, each in `train.accumulate` parts; of a method that needs
    its `whole_batch`, where they would.
    """
    if whole_batch and count * train.accumulate > 1:
        raise UserError(
            f"train.accumulate {train.accumulate}, processes {count}: this method's batch norm learns from whole batches, so both must be 1"
        )
    if train.batch_size % (count * train.accumulate):
        raise UserError(
            f"train.batch_size ({train.batch_size}) must be divisible by train.accumulate ({train.accumulate}) times the number of "
            f"processes ({count}), which share it evenly"
        )
