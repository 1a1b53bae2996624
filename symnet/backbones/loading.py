"""Backbones made and filled: from the registry's name, from files of weights."""

import hashlib
import importlib
from pathlib import Path

import torch
from torch import Tensor

from symnet.backbones import BACKBONES, STRIDED, weights_path
from symnet.backbones.base import Backbone
from symnet.config import BackboneSettings
from symnet.errors import UserError, one_line


def build_backbone(name: str) -> Backbone:
    """A backbone with random weights. Raises `UserError` for an unknown name."""
    known = BACKBONES | STRIDED
    if name not in known:
        raise UserError(f"backbone.name: found '{name}', allowed: {', '.join(BACKBONES)}")
    module, kind = known[name]
    return getattr(importlib.import_module(module), kind)()


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
