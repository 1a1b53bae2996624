"""The base learner's batches, loaded ahead in a thread: augmented on the host, or on the device where that is a GPU."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from symnet.config import Settings
from symnet.data.device_transforms import transform
from symnet.data.episodes import pass_order
from symnet.data.folds import FoldList
from symnet.data.images import IGNORE
from symnet.data.packing import Item, pack, plan_augment
from symnet.data.readers import Reader
from symnet.data.transforms import augment, class_table, draw, only_classes
from symnet.prefetch import ahead

WORKERS = 4  # threads that read images for a GPU


def base_labels(mask: np.ndarray, classes: tuple[int, ...]) -> Tensor:
    """Index mask [H, W] -> labels int64 [H, W]: base classes 1..n in order, other classes 0, 255 ignored."""
    return torch.from_numpy(label_table(classes)[mask])


def label_table(classes: tuple[int, ...]) -> np.ndarray:
    """What `base_labels` makes of each mask value, int64 [256]."""
    table = np.zeros(256, np.int64)
    table[list(classes)] = np.arange(1, len(classes) + 1)
    table[IGNORE] = IGNORE
    return table


def base_batches(
    settings: Settings, reader: Reader, train: FoldList, classes: tuple[int, ...], steps: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each step's images [B, 3, S, S] and labels [B, S, S] on the device: a pure function of the step."""
    if device.type == "cpu":
        return host_batches(settings, reader, train, classes, steps)
    return device_batches(settings, reader, train, classes, steps, device)


def host_batches(
    settings: Settings, reader: Reader, train: FoldList, classes: tuple[int, ...], steps: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches made by the plain transform, one image after the other."""
    base = settings.base

    def load(step: int) -> tuple[Tensor, Tensor]:
        images, labels = [], []
        for position in _positions(settings, step):
            image, mask = reader.load("train", _image(settings, train, position))
            mask = only_classes(mask, classes)  # before the crop is chosen: what is background must not steer it
            rng = np.random.default_rng([base.seed, position])
            found, truth = augment(image, mask, settings.pixels, rng, scale=base.scale, size=base.size)
            images.append(found)
            labels.append(base_labels(truth.numpy(), classes))
        return torch.stack(images), torch.stack(labels)

    return (batch for _, batch in ahead(load, ((step, step) for step in range(steps))))


def device_batches(
    settings: Settings, reader: Reader, train: FoldList, classes: tuple[int, ...], steps: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same batches, but for rounding, transformed on the device."""
    base, pixels = settings.base, settings.pixels
    shown, labels = (torch.from_numpy(table).to(device) for table in (class_table(classes), label_table(classes)))

    def item(position: int) -> Item:
        image, mask = reader.load("train", _image(settings, train, position))
        drawn = draw(pixels, np.random.default_rng([base.seed, position]), base.scale)
        return image, mask, plan_augment((mask.shape[0], mask.shape[1]), drawn, base.size, pixels.keep)

    with ThreadPoolExecutor(WORKERS) as pool:
        work = ((step, _positions(settings, step)) for step in range(steps))
        for _, packed in ahead(lambda wanted: pack(list(pool.map(item, wanted)), pin=device.type == "cuda"), work):
            images, truth = transform(packed.to(device), base.size, pixels.antialias, shown)
            yield images, labels[truth.long()]


def _positions(settings: Settings, step: int) -> range:
    return range(step * settings.base.batch_size, (step + 1) * settings.base.batch_size)


def _image(settings: Settings, train: FoldList, position: int) -> str:
    turn, place = divmod(position, len(train.rows))
    return train.rows[pass_order(settings.base.seed, turn, len(train.rows))[place]].image
