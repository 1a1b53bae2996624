"""Networks at their own strides, 8, 16 and 32, not dilated: those of HSNet, DCAMA and FECANet, whose doors load their weights.

They have block maps and no levels, so they are no backbone of an experiment: there all methods read the fold's own.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from symnet.backbones.base import Backbone
from symnet.backbones.resnet import ResNet, ResNet50TV, ResNet101TV


class ResNet50Strided(ResNet50TV):
    """Torchvision's ResNet-50."""

    stride = 32
    dilates = False


class ResNet101Strided(ResNet101TV):
    """Torchvision's ResNet-101."""

    stride = 32
    dilates = False


class _FromFirst(ResNet):
    """Before its block maps the first stage's last, at stride 4: one that `groups` does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.block_channels = (256, *self.block_channels)  # a longer tuple than the network's own

    def until_last(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """As `ResNet.until_last`, with one map more at the head of the list."""
        x, maps = self.layer0(images), []
        for block in (*self.layer1, *self.layer2, *self.layer3):
            maps.append(block(x))
            x = F.relu(maps[-1])
        return maps[len(self.layer1) - 1 :], x


class ResNet50FromFirst(_FromFirst, ResNet50Strided):
    """DCAMA's network."""


class ResNet101FromFirst(_FromFirst, ResNet101Strided):
    """DCAMA's network, deeper."""


class VGG16Strided(Backbone):
    """Torchvision's VGG-16 without batch norm: the last three convolutions at stride 8 and at 16, before their ReLU, and the last pool."""

    stride = 32
    groups = (3, 3, 1)
    block_channels = (512,) * 7
    _widths = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0: a pool

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in self._widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2, 2)]
            channels = width or channels
        self.features = nn.Sequential(*layers)

    def until_last(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """[B, 3, S, S] -> six maps [B, 512, S/8, S/8] and [B, 512, S/16, S/16], and the last one's ReLU."""
        x, maps = images, []
        for place, layer in enumerate(self.features[:29]):
            x = layer(x)
            if place in (17, 19, 21, 24, 26, 28):
                maps.append(x)
        return maps, self.entering(maps[-1])

    def entering(self, third: Tensor) -> Tensor:
        """Its ReLU."""
        return F.relu(third)

    def last_stage(self, x: Tensor) -> list[Tensor]:
        """The pool."""
        return [self.features[30](x)]
