"""ResNets as SSP's and CyCTR's released code has them, whose weights `symnet.methods.SSP` and `symnet.methods.CyCTR` load.

The first block of a dilated stage has the dilation of the stage before (torchvision's rule). CyCTR's mid features are layer2 before layer3,
and its batch norm has no weights that could be trained. They are no backbones of an experiment: there all methods read the fold's own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symnet.backbones.resnet import ResNet, ResNet50, ResNet101


class ResNet50Late(ResNet50):
    """SSP's network."""

    dilates_late = True


class ResNet101Late(ResNet101):
    """SSP's network, deeper."""

    dilates_late = True


class FrozenBatchNorm(nn.Module):
    """Batch norm by fixed statistics, scale and shift, all buffers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.running_var = nn.Buffer(torch.ones(channels)), nn.Buffer(torch.ones(channels))
        self.bias, self.running_mean = nn.Buffer(torch.zeros(channels)), nn.Buffer(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> the same shape."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


class _Frozen(ResNet):
    dilates_late = True

    def __init__(self) -> None:
        super().__init__()
        for name, module in list(self.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                self.set_submodule(name, FrozenBatchNorm(module.num_features))

    def mid(self, chosen: list[Tensor]) -> Tensor:
        """[layer2, layer3], each after its last ReLU."""
        return F.relu(torch.cat(chosen, 1))


class ResNet50Frozen(_Frozen, ResNet50):
    """PSPNet's deep stem, 4 + 6 + 3 block maps."""


class ResNet101Frozen(_Frozen, ResNet101):
    """PSPNet's deep stem, 4 + 23 + 3 block maps."""
