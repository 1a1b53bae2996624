"""The released code's names for our parameters."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from symnet.backbones.base import load_exactly
from symnet.config import ModelSettings
from symnet.model.symnet import SymNet

# (released beginning, ours); {} is the number of a layer; the first that matches holds
_RENAME = (
    ("layer{}.", "backbone.layer{}."),
    ("learner_base.0.features.{}.1.", "base.pyramid.{}.0."),
    ("learner_base.0.features.{}.2.", "base.pyramid.{}.1."),
    ("learner_base.1.", "base.classify."),
    ("down_query.", "head.reduce_query."),
    ("down_supp.", "head.reduce_support."),
    ("init_merge.{}.0.", "head.decode.merge.{}."),
    ("alpha_conv.{}.0.", "head.decode.across.{}."),
    ("beta_conv.", "head.decode.refine."),
    ("inner_cls.", "head.decode.inner."),
    ("res1.0.", "head.decode.join."),
    ("res2.", "head.decode.refine_joined."),
    ("cls.", "head.decode.classify."),
    ("hyper_final.conv1.", "head.fuse.reduce4."),
    ("hyper_final.conv2.", "head.fuse.reduce3."),
    ("hyper_final.conv3.", "head.fuse.reduce2."),
    ("hyper_final.merge1.", "head.fuse.merge3."),
    ("hyper_final.merge2.", "head.fuse.merge2."),
    ("CrossAttention.weight", "head.align.score"),
    ("CrossAttention.w_q.", "head.align.query."),
    ("CrossAttention.w_k.", "head.align.key."),
    ("CrossAttention.proj.", "head.align.project."),
    ("kshot_rw.", "head.weigh.layers."),
    ("gram_merge.", "head.ensemble.with_psi."),
    ("cls_merge.", "head.ensemble.with_base."),
)


def our_name(released: str) -> str:
    """Our parameter name for a released one; a name without a counterpart comes back as it is, and is then refused as foreign."""
    return _renamed(released, _RENAME)


def released_name(ours: str) -> str:
    """The released name of one of our parameters: the inverse of `our_name`."""
    return _renamed(ours, tuple((b, a) for a, b in _RENAME))


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for old, new in table:
        renamed, found = re.subn("^" + re.escape(old).replace(r"\{\}", r"(\d+)"), new.replace("{}", r"\1"), name)
        if found:
            return renamed
    return name


def from_released(state: Mapping[str, object], shot: int, image_size: int, scales: tuple[int, ...] | None) -> SymNet:
    """See `SymNet.from_released`."""
    tensors = {name.removeprefix("module."): torch.as_tensor(value) for name, value in state.items()}
    for name, axes in (("learner_base.1.4.weight", 4), ("CrossAttention.w_q.weight", 2), ("cls.0.weight", 4)):
        if name not in tensors:
            raise ValueError(f"no entry '{name}': not a state dict of the released Sym-Net")
        if tensors[name].dim() != axes:
            raise ValueError(f"entry '{name}' has shape {tuple(tensors[name].shape)}, expected {axes} axes")
    channels = tensors["cls.0.weight"].shape[0]
    model = SymNet(
        ModelSettings(variant="released", channels=channels),
        backbone="resnet50",
        base_classes=tensors["learner_base.1.4.weight"].shape[0] - 1,
        shot=shot,
        text=tensors["CrossAttention.w_q.weight"].shape[1] - channels,
        image_size=image_size,
        scales=scales,
    )
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        ours = our_name(name)
        if ours.startswith("head.weigh.") and value.dim() == 4:
            value = value.flatten(1)  # their 1x1 convolution over shots is our linear layer
        renamed[ours] = value
    load_exactly(model, renamed, released_name)
    return model.float().eval()
