"""VGG-16 with batch norm (Simonyan & Zisserman, ICLR 2015), as the PFENet family uses it: torchvision's weights, ceil-mode pools.

Five stages are the module ranges 0-7, 7-14, 14-24, 24-34 and 34-43 of torchvision's `features`; the fifth pool is left out, so layer3
and layer4 end at stride 16 (side 30 at 473 px, 41 at 641). Entry names count within a stage (`layer0.0`, `layer0.1`, `layer0.3`, ...),
as in that family's checkpoints.
"""

import re
from bisect import bisect

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symnet.backbones.base import Backbone, Levels, load_exactly, with_counters
from symnet.model.resize import resize

_FIRST = (0, 7, 14, 24, 34)  # where each stage begins in torchvision's `features`


class VGG16BN(Backbone):
    """7 block maps, before their ReLU: one of layer2 (256 channels), three of layer3 (512), three of layer4 (512).

    layer2's is its last convolution's after the stage's pool (pooling and ReLU commute), at stride 8; layer3's are its three
    convolutions', before its pool, at stride 8 as well; layer4's at stride 16. The family's 1 + 3 + 3 maps are a fact, where in a stage
    they are taken is not printed: this is our reading. Published ImageNet file: `vgg16_bn-6c64b313.pth`.
    """

    stride = 16
    block_channels = (256,) + (512,) * 6
    groups = (1, 3, 3)
    mid_blocks = (0, 3)
    low_channels, mid_channels, high_channels = 256, 768, 512

    def __init__(self) -> None:
        super().__init__()
        self.layer0 = nn.Sequential(*_conv(3, 64), *_conv(64, 64), _pool())
        self.layer1 = nn.Sequential(*_conv(64, 128), *_conv(128, 128), _pool())
        self.layer2 = nn.Sequential(*_conv(128, 256), *_conv(256, 256), *_conv(256, 256), _pool())
        self.layer3 = nn.Sequential(*_conv(256, 512), *_conv(512, 512), *_conv(512, 512), _pool())
        self.layer4 = nn.Sequential(*_conv(512, 512), *_conv(512, 512), *_conv(512, 512))

    def until_last(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """[B, 3, S, S] -> [B, 256, S/8, S/8], 3 of [B, 512, S/8, S/8]; layer3 [B, 512, S/16, S/16], sides rounded up."""
        x = self.layer1(self.layer0(images))  # [B, 128, S/4, S/4]
        second = self.layer2[-1](_before_relu(self.layer2, x)[-1])  # [B, 256, S/8, S/8]
        third = _before_relu(self.layer3, F.relu(second))
        return [second, *third], self.entering(third[-1])

    def entering(self, third: Tensor) -> Tensor:
        """Its pool, which ends the stage but comes after its block maps, and ReLU."""
        return F.relu(self.layer3[-1](third))

    def last_stage(self, x: Tensor) -> list[Tensor]:
        """[B, 512, S/16, S/16] -> 3 of the same shape."""
        return _before_relu(self.layer4, x)

    def levels(self, blocks: list[Tensor]) -> Levels:
        """low = layer2 resized to stride 16, mid = [layer3, low], high = layer4, each after its last ReLU; [B, C, S/16, S/16]."""
        layer4 = F.relu(blocks[-1])
        return Levels(resize(F.relu(blocks[0]), layer4.shape[-1]), self.mid([blocks[i] for i in self.mid_blocks]), layer4)

    def mid(self, chosen: list[Tensor]) -> Tensor:
        """[layer3, low]."""
        layer3 = self.entering(chosen[1])
        return torch.cat([layer3, resize(F.relu(chosen[0]), layer3.shape[-1])], 1)

    def load_imagenet(self, state: dict[str, Tensor]) -> None:
        """Load torchvision's file; its `classifier` is left out by name."""
        plain = {name.removeprefix("module."): value for name, value in state.items()}
        renamed = {_our_name(name): value for name, value in plain.items() if not name.startswith("classifier.")}
        load_exactly(self, with_counters(self, renamed), _file_name)


def _before_relu(stage: nn.Sequential, x: Tensor) -> list[Tensor]:
    """The outputs of a stage's three convolutions, each with its norm and before its ReLU; the stage's pool is left to the caller."""
    maps = []
    for first in (0, 3, 6):
        maps.append(stage[first + 1](stage[first](x)))
        x = F.relu(maps[-1])
    return maps


def _conv(channels_in: int, channels: int) -> list[nn.Module]:
    return [nn.Conv2d(channels_in, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


def _pool() -> nn.Module:
    return nn.MaxPool2d(2, 2, ceil_mode=True)


def _our_name(name: str) -> str:
    """`features.9.weight` -> `layer1.2.weight`; any other name comes back as it is."""
    found = re.fullmatch(r"features\.(\d+)\.(.+)", name)
    if found is None:
        return name
    stage = bisect(_FIRST, int(found[1])) - 1
    return f"layer{stage}.{int(found[1]) - _FIRST[stage]}.{found[2]}"


def _file_name(name: str) -> str:
    """The inverse of `_our_name`."""
    found = re.fullmatch(r"layer([0-4])\.(\d+)\.(.+)", name)
    return name if found is None else f"features.{_FIRST[int(found[1])] + int(found[2])}.{found[3]}"
