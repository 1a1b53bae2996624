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

_TRUNK = re.compile(r"^(backbone\.body|backbone|feature_extractor)\.")

# Entries from which the model's widths are read, with the number of their axes.
_READ = {
    "learner_base.1.4.weight": 4,
    "learner_base.1.0.weight": 4,
    "CrossAttention.w_q.weight": 2,
    "hyper_final.merge2.3.weight": 4,
    "cls.0.weight": 4,
}


def plain_names(state: Mapping[str, object]) -> dict[str, Tensor]:
    """The entries of a checkpoint or of the state dict in it, as tensors, by the names that remain of those that code gave them:

    without the `module.` of a parallel wrapper, the `backbone.`, `backbone.body.` or `feature_extractor.` of a network's own, and
    without the second names of stages (`encoder.N.` beside `layerN.`). Raises `ValueError` where two names of one tensor differ.
    """
    held = state.get("state_dict", state)
    if not isinstance(held, Mapping):
        raise ValueError(f"state_dict: found {type(held).__name__}, expected names and their tensors")
    found: dict[str, Tensor] = {}
    twins: dict[str, Tensor] = {}
    for name, value in held.items():
        try:
            tensor = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"entry '{name}': found {type(value).__name__}, expected a tensor") from None
        plain = _TRUNK.sub("", name.removeprefix("module."))
        (twins if plain.startswith("encoder.") else found)[plain] = tensor
    for name, tensor in twins.items():
        first = "layer" + name.removeprefix("encoder.")
        if first not in found:
            found[name] = tensor
        elif not torch.equal(found[first], tensor):
            raise ValueError(f"'{name}' and '{first}' should be one tensor, and differ")
    return found


def backbone_of(state: Mapping[str, Tensor]) -> str:
    """Name of the backbone whose entries `layer0.` to `layer4.` are. Raises `ValueError` where there are none."""
    stem = state.get("layer0.0.weight")
    if stem is None or stem.dim() != 4:
        raise ValueError("no entry 'layer0.0.weight' of a convolution: not a state dict of this family")
    if "layer0.0.bias" in state:
        return "vgg16_bn"
    depth = "resnet101" if any(name.startswith("layer3.22.") for name in state) else "resnet50"
    return f"{depth}_tv" if stem.shape[-1] == 7 else depth


def our_name(released: str) -> str:
    """Our parameter name for a released one; a name without a counterpart comes back as it is, and is then refused as foreign."""
    return renamed(released, _RENAME)


def released_name(ours: str) -> str:
    """The released name of one of our parameters: the inverse of `our_name`."""
    return renamed(ours, tuple((b, a) for a, b in _RENAME))


def renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    """`name` with its beginning replaced by the first line of `table` (old, new; {} is a number) that fits, else as it is."""
    for old, new in table:
        changed, found = re.subn("^" + re.escape(old).replace(r"\{\}", r"(\d+)"), new.replace("{}", r"\1"), name)
        if found:
            return changed
    return name


def from_released(state: Mapping[str, object], shot: int, image_size: int, scales: tuple[int, ...] | None) -> SymNet:
    """See `SymNet.from_released`."""
    tensors = plain_names(state)
    for name, axes in _READ.items():
        if name not in tensors:
            raise ValueError(f"no entry '{name}': not a state dict of the released Sym-Net")
        if tensors[name].dim() != axes:
            raise ValueError(f"entry '{name}' has shape {tuple(tensors[name].shape)}, expected {axes} axes")
    channels = tensors["cls.0.weight"].shape[0]
    model = SymNet(
        ModelSettings(variant="released", channels=channels, hyper_channels=tensors["hyper_final.merge2.3.weight"].shape[0]),
        backbone=backbone_of(tensors),
        base_classes=tensors["learner_base.1.4.weight"].shape[0] - 1,
        base_width=tensors["learner_base.1.0.weight"].shape[0],
        shot=shot,
        text=tensors["CrossAttention.w_q.weight"].shape[1] - channels,
        image_size=image_size,
        scales=scales,
    )
    ours_to_values: dict[str, Tensor] = {}
    for name, value in tensors.items():
        ours = our_name(name)
        if ours.startswith("head.weigh.") and value.dim() == 4:
            value = value.flatten(1)  # their 1x1 convolution over shots is our linear layer
        ours_to_values[ours] = value
    load_exactly(model, ours_to_values, released_name)
    return model.float().eval()
