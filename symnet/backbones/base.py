"""What a backbone is."""

from collections.abc import Callable
from typing import NamedTuple

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
        raise NotImplementedError

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
