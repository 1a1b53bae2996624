"""What a model called with images refuses: sizes, shapes and values that do not fit, naming the argument."""

import torch
from torch import Tensor

from symnet.model.segmentation import IGNORE


def check_size(image_size: int, shot: int, also_even: bool = False) -> None:
    """Refuse a side that is not 8n+1, and no shots. also_even: 8n is allowed as well."""
    if not isinstance(image_size, int) or image_size % 8 not in ((0, 1) if also_even else (1,)) or image_size < 33:
        raise ValueError(f"image_size: found {image_size!r}, allowed: {'8n and ' * also_even}8n+1 from 33 up")
    if shot < 1:
        raise ValueError(f"shot: found {shot}, allowed: 1 and more")


def check_shapes(**expected: tuple[Tensor, tuple[int, ...]]) -> None:
    """Refuse a tensor of another shape: NAME=(tensor, shape)."""
    for name, (found, shape) in expected.items():
        if tuple(found.shape) != shape:
            raise ValueError(f"{name}: found shape {tuple(found.shape)}, expected {shape}")


def check_values(name: str, mask: Tensor) -> None:
    """Refuse anything but 0, 1 and 255; on a GPU the look would wait for the device, so there it is left out."""
    if mask.device.type != "cpu":
        return
    wrong = (mask != 0) & (mask != 1) & (mask != 255)
    if wrong.any():
        raise ValueError(f"{name}: found value {mask[wrong][0].item()}, allowed: 0, 1, 255")


def check_images(**images: Tensor) -> None:
    """Refuse images that are not normalised, and, on a CPU, values that are no numbers."""
    for name, found in images.items():
        if not found.is_floating_point():
            raise ValueError(f"{name}: found {found.dtype}, expected normalised images, as floats")
        if found.device.type == "cpu" and not torch.isfinite(found).all():
            raise ValueError(f"{name}: found values that are not finite")


def check_range(name: str, values: Tensor, last: int, but: int | None = None) -> None:
    """Refuse anything outside 0..last; on a GPU left out, as above."""
    if values.device.type != "cpu":
        return
    wrong = (values < 0) | (values > last)
    if but is not None:
        wrong &= values != but
    if wrong.any():
        raise ValueError(f"{name}: found value {values[wrong][0].item()}, allowed: 0 to {last}{'' if but is None else f', {but}'}")


def check_episodes(
    size: int, shot: int, query: Tensor, support: Tensor, support_mask: Tensor, text: Tensor, width: int | None = None
) -> None:
    """Refuse what is no batch of episodes of `shot` supports, images of side `size`. width: of the text vectors; None: any."""
    for name, tensor in (("query", query), ("support", support), ("support_mask", support_mask), ("text", text)):
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name}: found {type(tensor).__name__}, expected a tensor")
    batch = max(len(query), 1) if query.dim() else 1  # of no episodes at all: refused
    check_shapes(
        query=(query, (batch, 3, size, size)),
        support=(support, (batch, shot, 3, size, size)),
        support_mask=(support_mask, (batch, shot, size, size)),
        text=(text, (batch, *text.shape[1:2]) if width is None else (batch, width)),
    )
    check_images(query=query, support=support)
    check_values("support_mask", support_mask)


def check_truth(batch: int, size: int, query_mask: Tensor, base_mask: Tensor, base_index: Tensor, base_classes: int | None) -> None:
    """Refuse truth that is not that of a batch of images of side `size`. base_classes: None where there is no base learner."""
    square = (batch, size, size)
    check_shapes(query_mask=(query_mask, square), base_mask=(base_mask, square), base_index=(base_index, (batch,)))
    check_values("query_mask", query_mask)
    if base_classes is not None:
        if base_index.is_floating_point():
            raise ValueError(f"base_index: found {base_index.dtype}, expected whole numbers")
        check_range("base_mask", base_mask, base_classes, but=IGNORE)
        check_range("base_index", base_index, base_classes - 1)
