"""What a backbone is."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

STRIDE = 8


class Levels(NamedTuple):
    """What the modules read of an image: [B, C, H, W] each."""

    low: Tensor  # K-shot weights
    mid: Tensor  # prototypes and decoder
    high: Tensor  # prior, base learner


class Backbone(nn.Module):
    """Images to block maps, block maps to levels.

    `block_channels` are the C_i of the block maps; `groups` counts the maps of the second, third and fourth stage.
    """

    block_channels: tuple[int, ...]
    groups: tuple[int, int, int]
    low_channels: int
    mid_channels: int
    high_channels: int

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, S, S] -> block maps before their last ReLU, each [B, C_i, H, W]."""
        raise NotImplementedError

    def levels(self, blocks: list[Tensor]) -> Levels:
        """Block maps -> low, mid and high features."""
        raise NotImplementedError

    def load_imagenet(self, state: dict[str, Tensor]) -> None:
        """Load a published ImageNet state dict; raise `ValueError` for an entry that is missing, foreign or misshapen."""
        raise NotImplementedError


def side(size: int) -> int:
    """Side of the features of an image of side `size` = 8n+1."""
    return (size - 1) // STRIDE + 1


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
