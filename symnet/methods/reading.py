"""How released state dicts are read, where methods have it in common."""

from collections.abc import Mapping, Sequence

from torch import Tensor

# Beginnings of names of PFENet's decoder in the released code of those that took it over, and behind their doors
DECODER = (
    ("init_merge.{}.0.", "method.head.decode.merge.{}."),
    ("alpha_conv.{}.0.", "method.head.decode.across.{}."),
    ("beta_conv.", "method.head.decode.refine."),
    ("inner_cls.", "method.head.decode.inner."),
    ("res1.0.", "method.head.decode.join."),
    ("res2.", "method.head.decode.refine_joined."),
    ("cls.", "method.head.decode.classify."),
)


def depth(state: Mapping[str, Tensor]) -> int:
    """Of the ResNet whose entries these are."""
    return 101 if "layer3.22.conv1.weight" in state else 50


def without_scales(name: str, scales: Sequence[float] | None, why: str = "has none to choose") -> None:
    """Refuse scales for a method that has none. Raises `ValueError`."""
    if scales is not None:
        raise ValueError(f"scales: found {scales}, but {name} {why}")


def at_one_scale(name: str, scales: Sequence[float] | None) -> None:
    """Refuse scales for a method that decodes where the features are. Raises `ValueError`."""
    without_scales(name, scales, "decodes at one scale, the features' own")
