"""What a backbone is."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

STRIDE = 8


class Levels(NamedTuple):
    """What the modules read of an image: [B, C, H, W] each, H = W = `Backbone.side(S)`."""

    low: Tensor  # K-shot weights
    mid: Tensor  # prototypes and decoder
    high: Tensor  # prior, base learner


class Backbone(nn.Module):
    """Images to block maps, block maps to levels.

    `block_channels` are the C_i of the block maps; `groups` counts the maps of the second, third and fourth stage. Block maps may differ
    in side (VGG's do); the last one's is the levels'.
    """

    stride: int = STRIDE  # of the levels
    block_channels: tuple[int, ...]
    groups: tuple[int, int, int]
    mid_blocks: tuple[int, ...]  # the block maps, from 0, that make mid
    low_channels: int
    mid_channels: int
    high_channels: int

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, S, S] -> block maps before their last ReLU, each [B, C_i, H_i, H_i]."""
        maps, x = self.until_last(images)
        return [*maps, *self.last_stage(x)]

    def until_last(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Images -> the block maps of the second and third stage, and what enters the fourth, which is `entering` of the last of them."""
        raise NotImplementedError

    def entering(self, third: Tensor) -> Tensor:
        """The third stage's last block map -> what enters the fourth."""
        raise NotImplementedError

    def last_stage(self, x: Tensor) -> list[Tensor]:
        """What enters the fourth stage -> its block maps."""
        raise NotImplementedError

    def masked(self, blocks: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
        """The block maps of supports that are masked before the fourth stage.

        blocks: their own, [B, K, C_i, H_i, W_i], of the second and third stage at least; mask [B, K, H, W] in [0, 1], at the levels' side.
        """
        known, shots = sum(self.groups[:2]), mask.shape[:2]
        x = self.entering(blocks[known - 1].flatten(0, 1))
        x = x * mask.flatten(0, 1).unsqueeze(1).to(x.dtype)  # [BK, C, H, W]
        if self.training:  # batch norm takes the statistics of each shot apart
            each = [self.last_stage(one) for one in x.unflatten(0, shots).unbind(1)]
            return [*blocks[:known], *(torch.stack(maps, 1) for maps in zip(*each, strict=True))]
        return [*blocks[:known], *(m.unflatten(0, shots) for m in self.last_stage(x))]

    def levels(self, blocks: list[Tensor]) -> Levels:
        """Block maps -> low, mid and high features."""
        raise NotImplementedError

    def mid(self, chosen: list[Tensor]) -> Tensor:
        """The block maps of `mid_blocks` alone -> mid features."""
        raise NotImplementedError

    def side(self, size: int) -> int:
        """Side H of the levels of an image of side `size` = 8n+1."""
        return side(size, self.stride)

    def load_imagenet(self, state: dict[str, Tensor]) -> None:
        """Load a published ImageNet state dict; raise `ValueError` for an entry that is missing, foreign or misshapen."""
        raise NotImplementedError


def side(size: int, stride: int = STRIDE) -> int:
    """Side of the features of an image of side `size` = 8n+1: `size` halved, upward, until it went `stride` times smaller."""
    return (size - 1) // stride + 1


def with_counters(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state`, batch norm's counters added where it has none: files older than PyTorch 0.4.1 have none, and nothing reads them."""
    return {name: value for name, value in module.state_dict().items() if name.endswith("num_batches_tracked")} | state


def load_exactly(module: nn.Module, state: dict[str, Tensor], told: Callable[[str], str] = str) -> None:
    """Load a state dict whose names and shapes must all fit; raise `ValueError` naming the first that does not.

    `told` turns a name of ours into the one the error says, where the file has other names.
    """
    own = module.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing:
        raise ValueError(f"no entry '{told(missing[0])}' ({len(missing)} missing of {len(own)})")
    if extra:
        raise ValueError(f"foreign entry '{told(extra[0])}' ({len(extra)} of them)")
    if wrong:
        raise ValueError(f"entry '{told(wrong[0])}' has shape {tuple(state[wrong[0]].shape)}, expected {tuple(own[wrong[0]].shape)}")
    module.load_state_dict(state, strict=True)
