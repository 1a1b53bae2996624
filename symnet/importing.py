"""Checkpoints as the authors of the family distribute them, turned into this project's files, so that they can be scored here.

Two kinds: a whole Sym-Net of the released code (backbone, base learner and head: `base.safetensors` and `model.safetensors` come of
it), and the PSPNet of a fold's base classes (`base.safetensors`). Every name and shape has to fit; nothing is left out silently.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from symnet.artifacts import Provenance, digest, file_digest
from symnet.backbones.base import Backbone, load_exactly
from symnet.backbones.loading import build_backbone, load_plain
from symnet.base_learner import base_tensors
from symnet.checkpoint import save_tensors
from symnet.data.classes import class_names
from symnet.data.folds import base_classes
from symnet.errors import UserError, one_line
from symnet.model import SymNet
from symnet.model.base import PSPHead
from symnet.model.released import backbone_of, plain_names, renamed

# The released PSPNet's beginnings of names, and ours.
PSPNET = (
    ("layer{}.", "backbone.layer{}."),
    ("ppm.features.{}.1.", "head.pyramid.{}.0."),
    ("ppm.features.{}.2.", "head.pyramid.{}.1."),
    ("cls.", "head.classify."),
)


@dataclass(frozen=True)
class Classes:
    """Which classes a fold has: the names of all, the number of folds, the split. `data` says where that was read."""

    names: tuple[str, ...]
    folds: int
    split: Literal["serial", "fwb"]
    data: str


@dataclass(frozen=True)
class Imported:
    """What was found in a checkpoint, and the files made of it."""

    kind: str  # symnet or pspnet
    backbone: str
    base_classes: int
    shots: int | None
    fold: int | None
    files: tuple[Path, ...]


def import_checkpoint(path: Path, out: Path, fold: int | None = None, classes: Classes | None = None, code: str = "") -> Imported:
    """Write `out`/base.safetensors, and `out`/model.safetensors of a whole Sym-Net, with provenance.

    path: a file of torch.save, a state dict or a dict that holds it as `state_dict`, names with or without `module.`. fold: None: read
    from `split0` or `fold0` in the path; where that says nothing, the base classes stay unknown, which is enough to be tested, not to
    train on. classes: of the data set; None: PASCAL-5i for 15 base classes, COCO-20i (every fourth) for 60. Raises `UserError` naming
    what does not fit.
    """
    if fold is None:
        named = re.findall(r"(?:split|fold)[_-]?(\d)", str(path))
        fold = int(named[-1]) if named else None
    state = read_checkpoint(path)
    provenance = Provenance(stage="base", code=code, inputs={"checkpoint": file_digest(path)})
    try:
        if "learner_base.1.4.weight" in state:
            return _import_symnet(state, path, out, fold, classes, provenance)
        if "ppm.features.0.1.weight" in state and "cls.4.weight" in state:
            return _import_pspnet(state, path, out, fold, classes, provenance)
    except ValueError as error:
        raise UserError(f"{path}: {one_line(error)}") from None
    raise UserError(
        f"{path}: neither a Sym-Net of the released code (no entry 'learner_base.1.4.weight') nor a PSPNet of base classes "
        f"(no 'ppm.features.0.1.weight'); its entries begin with {', '.join(sorted({name.split('.')[0] for name in state})[:8])}"
    )


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint, by plain names (`plain_names`). Raises `UserError`."""
    if not path.is_file():
        raise UserError(f"{path}: checkpoint not found")
    found = load_plain(path)
    state = found.get("state_dict", found) if isinstance(found, Mapping) else found
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: holds no state dict (a mapping of names to tensors, alone or as `state_dict`)")
    try:
        return plain_names(state)
    except ValueError as error:
        raise UserError(f"{path}: {one_line(error)}") from None


def _import_symnet(
    state: dict[str, Tensor], path: Path, out: Path, fold: int | None, classes: Classes | None, provenance: Provenance
) -> Imported:
    shots = state["kshot_rw.0.weight"].shape[1] if "kshot_rw.0.weight" in state else 1
    model = SymNet.from_released(state, shot=shots)
    backbone, count = backbone_of(state), state["learner_base.1.4.weight"].shape[0] - 1
    files = [_save_base(model.backbone, model.base, backbone, path, out, fold, count, classes, provenance)]
    settings = model.settings.model_dump(mode="json")
    meta = {"method": "symnet", "shots": shots, "steps": None, "selection": "imported", "score": None, "model": settings}
    stamp = provenance.model_copy(update={"stage": "train", "settings": digest([settings, shots])})
    files.append(out / "model.safetensors")
    save_tensors(files[-1], {f"head.{name}": value for name, value in model.head.state_dict().items()}, meta, stamp)
    return Imported("symnet", backbone, count, shots, fold, tuple(files))


def _import_pspnet(
    state: dict[str, Tensor], path: Path, out: Path, fold: int | None, classes: Classes | None, provenance: Provenance
) -> Imported:
    name = backbone_of(state)
    backbone, count = build_backbone(name), state["cls.4.weight"].shape[0] - 1
    head = PSPHead(backbone.high_channels, count + 1, state["cls.0.weight"].shape[0])
    whole = torch.nn.ModuleDict({"backbone": backbone, "head": head})
    back = tuple((ours, theirs) for theirs, ours in PSPNET)
    load_exactly(whole, {renamed(key, PSPNET): value for key, value in state.items()}, lambda ours: renamed(ours, back))
    return Imported("pspnet", name, count, None, fold, (_save_base(backbone, head, name, path, out, fold, count, classes, provenance),))


def _save_base(
    backbone: Backbone,
    head: PSPHead,
    name: str,
    path: Path,
    out: Path,
    fold: int | None,
    count: int,
    classes: Classes | None,
    provenance: Provenance,
) -> Path:
    """Write a base learner that was trained elsewhere: its mIoU is not known."""
    if classes is None:
        known = {15: Classes(class_names("voc"), 4, "serial", "PASCAL-5i"), 60: Classes(class_names("coco"), 4, "fwb", "COCO-20i")}
        if count not in known:
            raise UserError(f"{path}: {count} base classes are neither PASCAL-5i's 15 nor COCO-20i's 60; give --config and --dataset")
        classes = known[count]
    base: tuple[int, ...] = ()
    if fold is not None:
        base = base_classes(fold, len(classes.names), classes.folds, classes.split)
        if len(base) != count:
            raise UserError(f"{path}: holds {count} base classes, fold {fold} of {classes.data} has {len(base)}")
    meta = {"backbone": name, "width": head.classify[0].out_channels, "classes": list(base), "miou": None, "steps": None, "fold": fold}
    target = out / "base.safetensors"
    save_tensors(target, base_tensors(backbone, head), meta, provenance.model_copy(update={"settings": digest(meta)}))
    return target
