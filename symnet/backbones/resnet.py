"""ResNet-50 and ResNet-101, dilated to output stride 8 (Zhao et al., CVPR 2017), behind either of two stems.

Entry names are those of the PSPNet family (`layer0.0`, `layer1.0.conv1`, ...), so its checkpoints load by name. The stem decides which
ImageNet file fits: PSPNet's deep stem or torchvision's. A file of the other stem is refused, never loaded in part.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symnet.backbones.base import Backbone, Levels, load_exactly, with_counters

# The ImageNet files name the stem's layers, the segmentation family counts them. Torchvision's stem has the first two.
_STEM = {"conv1": "layer0.0", "bn1": "layer0.1", "conv2": "layer0.3", "bn2": "layer0.4", "conv3": "layer0.6", "bn3": "layer0.7"}


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut. Returns the sum before the last ReLU."""

    def __init__(self, channels_in: int, width: int, stride: int, dilation: int, project: bool) -> None:
        super().__init__()
        channels = 4 * width
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample = (
            nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)) if project else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, h, w] -> [B, 4 width, H, W], no ReLU."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x)) + shortcut


class ResNet(Backbone):
    """The trunk that all four share: one block map a bottleneck of layer2 (512 channels), layer3 (1024) and layer4 (2048).

    Dilation 2 in every block of layer3 and 4 in every block of layer4, the first included: not torchvision's rule, which gives the
    first block the previous dilation (`dilates_late`).
    """

    deep_stem: bool
    dilates = True
    dilates_late = False
    low_channels, mid_channels, high_channels = 512, 1536, 2048

    def __init__(self) -> None:
        super().__init__()
        second, third, fourth = self.groups
        stem = _conv(3, 64, 2) + _conv(64, 64, 1) + _conv(64, 128, 1) if self.deep_stem else _conv(3, 64, 2, kernel=7)
        self.layer0 = nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1))
        self.layer1 = _stage(128 if self.deep_stem else 64, 64, blocks=3, stride=1, dilation=1)
        self.layer2 = _stage(256, 128, blocks=second, stride=2, dilation=1)
        strides, dilations = ((1, 1), (2, 4)) if self.dilates else ((2, 2), (1, 1))
        first = (1, dilations[0]) if self.dilates_late else dilations
        self.layer3 = _stage(512, 256, blocks=third, stride=strides[0], dilation=dilations[0], first=first[0])
        self.layer4 = _stage(1024, 512, blocks=fourth, stride=strides[1], dilation=dilations[1], first=first[1])

    def until_last(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """[B, 3, S, S] -> block maps of layer2 and layer3 [B, C_i, H, W], before their last ReLU; layer3 after it."""
        x = self.layer0(images)  # [B, 128 or 64, S/4, S/4]
        for block in self.layer1:
            x = F.relu(block(x))
        return _maps((*self.layer2, *self.layer3), x)

    def entering(self, third: Tensor) -> Tensor:
        """Its ReLU."""
        return F.relu(third)

    def last_stage(self, x: Tensor) -> list[Tensor]:
        """[B, 1024, H, W] -> block maps of layer4 [B, 2048, H, W], before their last ReLU."""
        return _maps(self.layer4, x)[0]

    def levels(self, blocks: list[Tensor]) -> Levels:
        """low = layer2, mid = [layer3, layer2], high = layer4, each after its last ReLU."""
        chosen = [blocks[i] for i in self.mid_blocks]
        return Levels(F.relu(chosen[0]), self.mid(chosen), F.relu(blocks[-1]))

    def mid(self, chosen: list[Tensor]) -> Tensor:
        """[layer3, layer2], each after its last ReLU."""
        return F.relu(torch.cat(chosen[::-1], 1))

    def load_imagenet(self, state: dict[str, Tensor]) -> None:
        """Load an ImageNet file with the same stem; its classifier `fc` is left out by name."""
        renamed = {}
        for name, value in state.items():
            first, dot, rest = name.removeprefix("module.").partition(".")
            if first != "fc":
                renamed[_STEM.get(first, first) + dot + rest] = value
        kernel = tuple(renamed["layer0.0.weight"].shape[2:]) if "layer0.0.weight" in renamed else None
        if self.deep_stem and kernel == (7, 7):
            raise ValueError("its stem is one 7x7 convolution (torchvision's), expected PSPNet's three 3x3 convolutions")
        if not self.deep_stem and kernel == (3, 3):
            raise ValueError("its stem starts with a 3x3 convolution (PSPNet's has three), expected torchvision's one 7x7 convolution")
        load_exactly(self, with_counters(self, renamed), _file_name)


class ResNet50(ResNet):
    """PSPNet's deep stem, 4 + 6 + 3 block maps. Published ImageNet file: `resnet50-imagenet.pth`, in the field also `resnet50_v2.pth`."""

    deep_stem = True
    groups = (4, 6, 3)
    mid_blocks = (3, 9)
    block_channels = (512,) * 4 + (1024,) * 6 + (2048,) * 3


class ResNet101(ResNet):
    """PSPNet's deep stem, 4 + 23 + 3 block maps. Published ImageNet file: `resnet101-imagenet.pth`."""

    deep_stem = True
    groups = (4, 23, 3)
    mid_blocks = (3, 26)
    block_channels = (512,) * 4 + (1024,) * 23 + (2048,) * 3


class ResNet50TV(ResNet50):
    """Torchvision's stem before the same trunk. Published ImageNet file: `resnet50-0676ba61.pth`."""

    deep_stem = False


class ResNet101TV(ResNet101):
    """Torchvision's stem before the same trunk. Published ImageNet file: `resnet101-63fe2227.pth`."""

    deep_stem = False


def _maps(blocks: Iterable[nn.Module], x: Tensor) -> tuple[list[Tensor], Tensor]:
    """The block maps of some blocks, one after another, and the last one's ReLU."""
    maps = []
    for block in blocks:
        maps.append(block(x))  # [B, C_i, H, W]
        x = F.relu(maps[-1])
    return maps, x


def _file_name(name: str) -> str:
    """The name that ImageNet files have for an entry of ours."""
    for theirs, ours in _STEM.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    return name


def _conv(channels_in: int, channels: int, stride: int, kernel: int = 3) -> list[nn.Module]:
    convolution = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


def _stage(channels_in: int, width: int, blocks: int, stride: int, dilation: int, first: int | None = None) -> nn.Sequential:
    """first: dilation of the first block, where it is another."""
    entry = Bottleneck(channels_in, width, stride, first or dilation, project=True)
    return nn.Sequential(entry, *(Bottleneck(4 * width, width, 1, dilation, project=False) for _ in range(blocks - 1)))
