"""The released code's names for our parameters."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from symnet.backbones.base import load_exactly
from symnet.config import ModelSettings
from symnet.model.symnet import SymNet

# released name (pattern) -> ours; applied in order, the first that matches
_RENAME = (
    (r"^layer(\d)\.", r"backbone.layer\1."),
    (r"^learner_base\.0\.features\.(\d)\.1\.", r"base.pyramid.\1.0."),
    (r"^learner_base\.0\.features\.(\d)\.2\.", r"base.pyramid.\1.1."),
    (r"^learner_base\.1\.", r"base.classify."),
    (r"^down_query\.", r"head.reduce_query."),
    (r"^down_supp\.", r"head.reduce_support."),
    (r"^init_merge\.(\d)\.0\.", r"head.decode.merge.\1."),
    (r"^alpha_conv\.(\d)\.0\.", r"head.decode.across.\1."),
    (r"^beta_conv\.", r"head.decode.refine."),
    (r"^inner_cls\.", r"head.decode.inner."),
    (r"^res1\.0\.", r"head.decode.join."),
    (r"^res2\.", r"head.decode.refine_joined."),
    (r"^cls\.", r"head.decode.classify."),
    (r"^hyper_final\.conv1\.", r"head.fuse.reduce4."),
    (r"^hyper_final\.conv2\.", r"head.fuse.reduce3."),
    (r"^hyper_final\.conv3\.", r"head.fuse.reduce2."),
    (r"^hyper_final\.merge1\.", r"head.fuse.merge3."),
    (r"^hyper_final\.merge2\.", r"head.fuse.merge2."),
    (r"^CrossAttention\.weight$", r"head.align.score"),
    (r"^CrossAttention\.w_q\.", r"head.align.query."),
    (r"^CrossAttention\.w_k\.", r"head.align.key."),
    (r"^CrossAttention\.proj\.", r"head.align.project."),
    (r"^kshot_rw\.", r"head.weigh.layers."),
    (r"^gram_merge\.", r"head.ensemble.with_psi."),
    (r"^cls_merge\.", r"head.ensemble.with_base."),
)


def our_name(released: str) -> str:
    """Our parameter name for a released one; a name without a counterpart comes back as it is, and is then refused as foreign."""
    for pattern, ours in _RENAME:
        renamed, found = re.subn(pattern, ours, released)
        if found:
            return renamed
    return released


def from_released(state: Mapping[str, object], shot: int, image_size: int, scales: tuple[int, ...] | None) -> SymNet:
    """See `SymNet.from_released`."""
    tensors = {name.removeprefix("module."): torch.as_tensor(value) for name, value in state.items()}
    for name in ("learner_base.1.4.weight", "CrossAttention.w_q.weight", "cls.0.weight"):
        if name not in tensors:
            raise ValueError(f"no entry '{name}': not a state dict of the released Sym-Net")
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
    load_exactly(model, renamed)
    return model.float().eval()
